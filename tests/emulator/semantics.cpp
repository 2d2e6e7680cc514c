// semantics kernels: compares the results of the kernels of semantics.cu with loops written from the
// definitions, in every order and with every timing of copies. semantics driver: the substitute driver,
// including faults. semantics open: what a program sees when it opens the device. A failing check prints a
// line; the last line is "ok" if none failed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "host.h"

static int failures = 0;
#define CHECK(condition, ...)                                                             \
  do {                                                                                    \
    if (!(condition) && ++failures < 20) printf("failed: %s: ", #condition), printf(__VA_ARGS__), puts(""); \
  } while (0)

static std::mt19937 engine(20);
static int draw(int below) { return (int)(engine() % (unsigned)below); }
static float to_float(unsigned bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

// ------------------------------------------------------------------------------------------------------------ the warp

static void shuffles(void* module) {
  struct Params {
    uint64_t v, y;
    int arg, width;
  };
  for (int width : {32, 16, 8, 4, 2})
    for (int arg : {0, 1, 2, 3, 5, 8, 15, 16, 21, 31}) {
      std::vector<int> v(32);
      for (int& e : v) e = draw(1000);
      OnDevice<int> dv(v), dy(128);
      MUST(launch(module, "shuffles", 1, 32, 0, Params{dv.at, dy.at, arg, width}));
      const std::vector<int> y = dy.get();
      for (int lane = 0; lane < 32; lane++) {
        // CUDA C++ programming guide: the warp is divided into groups of `width`. A source outside of the
        // lane's own group gives the lane's own value, except for idx, which is taken modulo width, and xor,
        // which may read from earlier groups.
        const int group = lane / width * width, last = group + width - 1;
        const int idx = group + arg % width, flipped = lane ^ arg, up = lane - arg, down = lane + arg;
        CHECK(y[(size_t)lane] == v[(size_t)idx], "idx %d width %d lane %d", arg, width, lane);
        CHECK(y[(size_t)lane + 32] == v[(size_t)(flipped > last ? lane : flipped)], "xor %d width %d lane %d", arg,
              width, lane);
        CHECK(y[(size_t)lane + 64] == v[(size_t)(up < group ? lane : up)], "up %d width %d lane %d", arg, width, lane);
        CHECK(y[(size_t)lane + 96] == v[(size_t)(down > last ? lane : down)], "down %d width %d lane %d", arg, width,
              lane);
      }
    }
}

static void votes(void* module) {
  struct Params {
    uint64_t v, y;
  };
  for (int round = 0; round < 8; round++) {
    std::vector<int> v(128);
    for (int& e : v) e = draw(round + 8) - 8 + round / 2;
    OnDevice<int> dv(v), dy(9 * 128);
    MUST(launch(module, "votes", 1, 128, 0, Params{dv.at, dy.at}));
    const std::vector<int> y = dy.get();
    const int positive = (int)std::count_if(v.begin(), v.end(), [](int e) { return e > 0; });
    const int most = *std::max_element(v.begin(), v.end()), least = *std::min_element(v.begin(), v.end());
    for (int t = 0; t < 128; t++) {
      auto row = [&](int r) { return y[(size_t)(r * 128 + t)]; };
      const auto warp = v.begin() + t / 32 * 32, half = v.begin() + t / 16 * 16;
      unsigned ballot = 0;
      int sum = 0;
      for (int i = 0; i < 16; i++) ballot |= (unsigned)(half[i] > 0) << (t % 32 / 16 * 16 + i), sum += half[i];
      CHECK((unsigned)row(0) == ballot, "thread %d", t);
      CHECK(row(1) == (*std::max_element(half, half + 16) > 6), "thread %d", t);
      CHECK(row(2) == (*std::min_element(half, half + 16) > -6), "thread %d", t);
      CHECK(row(3) == sum, "thread %d: %d", t, row(3));
      CHECK(row(4) == *std::max_element(warp, warp + 32), "thread %d", t);
      CHECK(row(5) == *std::min_element(warp, warp + 32), "thread %d", t);
      CHECK(row(6) == positive, "thread %d", t);
      CHECK((row(7) != 0) == (most > 7), "thread %d", t);
      CHECK((row(8) != 0) == (least > -8), "thread %d", t);
    }
  }
}

// -------------------------------------------------------------------------------------------------------- tensor cores

static void matrices(void* module) {
  struct Params {
    uint64_t m, y;
  };
  std::vector<unsigned short> m(32 * 8);
  for (auto& e : m) e = (unsigned short)draw(65536);
  OnDevice<unsigned short> dm(m);
  OnDevice<unsigned> dy(12 * 32);
  MUST(launch(module, "matrices", 1, 32, 512, Params{dm.at, dy.at}));
  const std::vector<unsigned> y = dy.get();
  // PTX, ldmatrix: thread t holds elements 2(t mod 4) and 2(t mod 4)+1 of row t/4 of each matrix, the first in the low
  // half; .trans loads the matrix in column-major order.
  auto at = [&](int tile, int row, int col) { return (unsigned)m[(size_t)((tile * 8 + row) * 8 + col)]; };
  for (int t = 0; t < 32; t++)
    for (int tile = 0; tile < 4; tile++) {
      const int r = t / 4, c = t % 4 * 2;
      const unsigned plain = at(tile, r, c) | at(tile, r, c + 1) << 16,
                     turned = at(tile, c, r) | at(tile, c + 1, r) << 16;
      CHECK(y[(size_t)(tile * 32 + t)] == plain, "x4 tile %d thread %d", tile, t);
      CHECK(y[(size_t)((4 + tile) * 32 + t)] == turned, "x4.trans tile %d thread %d", tile, t);
      if (tile >= 2) continue;
      CHECK(y[(size_t)((8 + tile) * 32 + t)] == plain, "x2 tile %d thread %d", tile, t);
      CHECK(y[(size_t)((10 + tile) * 32 + t)] == turned, "x2.trans tile %d thread %d", tile, t);
    }
}

static void product(void* module) {
  struct Params {
    uint64_t a, b, c, d;
  };
  for (int round = 0; round < 4; round++) {
    // Small whole numbers: products and sums are exact, so the result must be equal.
    auto some = [](size_t n) {
      std::vector<float> v(n);
      for (float& e : v) e = (float)(draw(65) - 32);
      return v;
    };
    auto halves = [](const std::vector<float>& v) {
      std::vector<unsigned short> h;
      for (float f : v) {
        unsigned bits;
        memcpy(&bits, &f, 4);
        h.push_back((unsigned short)(bits >> 16));
      }
      return h;
    };
    const std::vector<float> a = some(256), b = some(128), c = some(128);
    OnDevice<unsigned short> da(halves(a)), db(halves(b));
    OnDevice<float> dc(c), dd(128);
    MUST(launch(module, "product", 1, 32, 0, Params{da.at, db.at, dc.at, dd.at}));
    const std::vector<float> d = dd.get();
    for (size_t i = 0; i < 16; i++)
      for (size_t j = 0; j < 8; j++) {
        double want = c[i * 8 + j];
        for (size_t k = 0; k < 16; k++) want += (double)a[i * 16 + k] * (double)b[k * 8 + j];
        CHECK(d[i * 8 + j] == want, "row %zu column %zu: %g, not %g", i, j, (double)d[i * 8 + j], want);
      }
  }
}

static void copies(void* module) {
  struct Params {
    uint64_t x, by16, by4;
    int n;
  };
  for (int n : {0, 4, 60, 124, 128}) {
    std::vector<float> x(128);
    for (float& e : x) e = (float)draw(1000) + 1;
    OnDevice<float> dx(x), by16(128), by4(128);
    MUST(launch(module, "copies", 1, 128, 1024, Params{dx.at, by16.at, by4.at, n}));
    const std::vector<float> a = by16.get(), b = by4.get();
    for (int i = 0; i < 128; i++) {
      const float want = i < n ? x[(size_t)i] : 0;
      CHECK(a[(size_t)i] == want && b[(size_t)i] == want, "element %d of %d", i, n);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ bfloat16

// By definition: the nearer of the two bfloat16 around |f|; at the midpoint the one with an even last bit.
// 2^128 represents the neighbour above the largest one, as in IEEE 754.
static unsigned rounded(unsigned bits) {
  const unsigned sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude == 0x7f800000u) return sign | 0x7f80u;
  const unsigned below = magnitude >> 16, above = below + 1;
  auto value = [](unsigned half) { return half == 0x7f80u ? std::ldexp(1.0, 128) : (double)to_float(half << 16); };
  const double f = to_float(magnitude), down = f - value(below), up = value(above) - f;
  return sign | (down < up ? below : up < down ? above : below % 2 ? above : below);
}
static void rounding(void* module) {
  struct Params {
    uint64_t x, y;
    int n;
  };
  std::vector<unsigned> x;
  for (unsigned high = 0; high < 0x10000; high++)
    for (unsigned low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, (unsigned)draw(65536)})
      x.push_back(high << 16 | low);
  OnDevice<unsigned> dx(x);
  OnDevice<unsigned short> dy(x.size());
  MUST(launch(module, "rounding", (unsigned)(x.size() + 255) / 256, 256, 0, Params{dx.at, dy.at, (int)x.size()}));
  const std::vector<unsigned short> y = dy.get();
  for (size_t i = 0; i < x.size(); i++)
    CHECK(y[i] == rounded(x[i]), "%08x gives %04x, not %04x", x[i], y[i], rounded(x[i]));
}

static void counts(void* module) {
  struct Params {
    uint64_t hits, total;
  };
  OnDevice<unsigned> hits(16);
  OnDevice<int> total(std::vector<int>{0});
  MUST(launch(module, "counts", 16, 256, 0, Params{hits.at, total.at}));
  const std::vector<unsigned> y = hits.get();
  unsigned all = 0;
  for (unsigned b = 0; b < 16; b++) {
    unsigned want = 0;
    for (unsigned t = 0; t < 256; t++) want += (b * 256 + t) * 2654435761u >> 28;
    CHECK(y[b] == want, "block %u: %u, not %u", b, y[b], want);
    all += want;
  }
  CHECK((unsigned)total.get()[0] == all, "total");
}

// ---------------------------------------------------------------------------------------------------------- the driver

struct RoundParams {
  uint64_t x, y;
  int n;
};

static void driver(void* module) {
  enum {
    kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kNotFound = 500, kLaunchFailed = 719, kCapture = 900
  };
  mipgpu_emu_configure(0, 0, 1, 1, 1);
  CHECK(mipgpu_emu_configure(3, 0, 1, 1, 1) == kInvalidValue, "an order that does not exist");
  std::vector<float> x = {1, 2, 3, 4};
  std::vector<unsigned short> two(4);
  OnDevice<float> dx(x);
  OnDevice<unsigned short> dy(4);
  void* function;
  float nothing[8];

  // Memory: bounds, the fill of fresh memory, what is counted as used.
  CHECK(cuMemcpyDtoH_v2(nothing, dx.at, 20) == kInvalidValue, "a copy past the end");
  CHECK(cuMemcpyDtoH_v2(nothing, dx.at + 8, 8) == 0 && nothing[0] == 3, "a copy from the middle");
  CHECK(cuMemcpyHtoD_v2(dx.at - 4, x.data(), 4) == kInvalidValue, "a copy in front");
  CHECK(dy.get()[3] == 0xffff, "fresh memory");
  size_t unused, total, less;
  MUST(cuMemGetInfo_v2(&unused, &total));
  {
    OnDevice<char> some(1000);
    MUST(cuMemGetInfo_v2(&less, &total));
    CHECK(unused - less == 1000, "%zu", unused - less);
  }
  uint64_t p;
  MUST(mipgpu_emu_fail(2, total - unused + 100));
  CHECK(cuMemAlloc_v2(&p, 101) == kOutOfMemory, "more than there is");
  CHECK(cuMemAlloc_v2(&p, 100) == 0 && cuMemFree_v2(p) == 0, "all there is");
  MUST(mipgpu_emu_fail(0, 0));
  CHECK(cuMemFree_v2(dx.at + 4) == kInvalidValue, "the middle of an allocation");

  // Launches that are refused at once.
  const RoundParams round{dx.at, dy.at, 4};
  CHECK(cuModuleGetFunction(&function, module, "no_such_kernel") == kNotFound, "a kernel that does not exist");
  CHECK(launch(module, "rounding", 1, 32, 48 * 1024 + 1, round) == kInvalidValue, "shared memory not asked for");
  MUST(cuModuleGetFunction(&function, module, "rounding"));
  CHECK(cuFuncSetAttribute(function, 8, 99 * 1024 + 1) == kInvalidValue, "more shared memory than there is");
  MUST(cuFuncSetAttribute(function, 8, 99 * 1024));
  MUST(launch(module, "rounding", 1, 32, 99 * 1024, round));
  CHECK(launch(module, "rounding", 0, 32, 0, round) == kInvalidValue, "an empty grid");
  CHECK(dy.get()[1] == 0x4000, "two");

  // A graph: nothing runs while it is captured, everything when it is launched, with the parameters of the capture.
  void *stream, *graph, *executable, *from, *to;
  MUST(cuStreamCreate(&stream, 1));
  MUST(cuStreamBeginCapture_v2(stream, 1));
  MUST(cuMemsetD32Async(dx.at, 0x40800000u, 4, stream));
  MUST(launch(module, "rounding", 1, 32, 0, round, stream));
  MUST(cuStreamEndCapture(stream, &graph));
  MUST(cuGraphInstantiateWithFlags(&executable, graph, 0));
  CHECK(dy.get()[0] == 0x3f80, "nothing has run");
  for (int i = 0; i < 2; i++) {
    MUST(cuMemsetD32Async(dx.at, 0, 4, stream));
    MUST(cuGraphLaunch(executable, stream));
    CHECK(dy.get()[0] == 0x4080, "launched");
  }
  MUST(cuStreamBeginCapture_v2(stream, 1));
  CHECK(cuStreamSynchronize(stream) == kCapture, "waiting for what is being captured");
  CHECK(cuStreamEndCapture(stream, &graph) == 901, "the capture is spoilt");

  float ms;
  MUST(cuEventCreate(&from, 0)), MUST(cuEventCreate(&to, 0));
  CHECK(cuEventElapsedTime_v2(&ms, from, to) == 400, "events that were not recorded");
  MUST(cuEventRecord(from, stream)), MUST(cuEventRecord(to, stream));
  CHECK(cuEventElapsedTime_v2(&ms, from, to) == 0 && ms >= 0, "%g ms", (double)ms);

  // The device is lost: launches still seem to succeed, the next wait reports it, then every call fails until
  // the reset.
  MUST(mipgpu_emu_fail(1, 1));
  MUST(launch(module, "rounding", 1, 32, 0, round, stream));
  MUST(cuStreamSynchronize(stream));
  MUST(launch(module, "rounding", 1, 32, 0, round, stream));
  MUST(launch(module, "rounding", 1, 32, 0, round, stream));
  CHECK(cuStreamSynchronize(stream) == kLaunchFailed, "the loss is reported");
  CHECK(strstr(describe(kLaunchFailed).c_str(), "lost"), "%s", describe(kLaunchFailed).c_str());
  CHECK(cuStreamSynchronize(stream) == kLaunchFailed, "and reported again");
  CHECK(cuMemAlloc_v2(&p, 4) == kLaunchFailed, "by every call");
  mipgpu_emu_reset();
  MUST(launch(module, "rounding", 1, 32, 0, round, stream));
  MUST(cuStreamSynchronize(stream));

  // Guards: the kernel rounds more elements than y has.
  std::vector<float> nine(9, 1.f);
  OnDevice<float> more(nine);
  MUST(launch(module, "rounding", 1, 32, 0, RoundParams{more.at, dy.at, 9}));
  CHECK(cuCtxSynchronize() == 700, "written past the end");
  CHECK(strstr(mipgpu_emu_error(), "rounding") && strstr(mipgpu_emu_error(), "8 bytes"), "%s", mipgpu_emu_error());
  CHECK(mipgpu_emu_check_guards() == 1, "one allocation");
  mipgpu_emu_reset();
  CHECK(mipgpu_emu_check_guards() == 0, "mended");

  MUST(cuCtxSetCurrent(nullptr));
  CHECK(cuMemAlloc_v2(&p, 4) == kInvalidContext, "no context");
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "open") {
    int version, count, major, minor;
    void* module;
    MUST(cuDriverGetVersion(&version));
    printf("driver %d\n", version);
    if (int r = cuInit(0)) return printf("cuInit %s\n", describe(r).c_str()), 0;
    MUST(cuDeviceGetCount(&count));
    MUST(cuDeviceGetAttribute(&major, 75, 0)), MUST(cuDeviceGetAttribute(&minor, 76, 0));
    void* context;
    MUST(cuDevicePrimaryCtxRetain(&context, 0)), MUST(cuCtxSetCurrent(context));
    size_t unused, total;
    MUST(cuMemGetInfo_v2(&unused, &total));
    printf("devices %d capability %d.%d memory %zu\n", count, major, minor, total);
    if (int r = cuModuleLoadData(&module, "")) printf("cuModuleLoadData %s\n", describe(r).c_str());
    return 0;
  }
  void* module = open_device();
  for (unsigned order = 0; what == "kernels" && order < 3; order++)
    for (unsigned copy = 0; copy < 3; copy++)
      for (unsigned threads : {1u, 3u}) {
        MUST(mipgpu_emu_configure(order, copy, 1, threads, order * 3 + copy + 1));
        shuffles(module), votes(module), matrices(module), product(module), copies(module), counts(module);
        if (order == 2) rounding(module);
      }
  if (what == "driver") driver(module);
  if (!failures) puts("ok");
  return failures != 0;
}
