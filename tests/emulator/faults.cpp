// faults KERNEL…: launches kernels of faults.cu one after another. Prints for each "NAME ok" or "NAME wrong …"
// (the result); "error …" (the driver) ends the program.
#include <cmath>
#include <cstring>
#include <map>

#include "host.h"

struct Params {
  uint64_t x, y, count;
  int n;
};
struct Case {
  unsigned grid, smem;
  int n;                                                  // elements of x and y
  float (*want)(const std::vector<float>& x, int i);      // of y, for a healthy kernel
  int count;                                              // its counter at the end
};

static bool run(void* module, const std::string& kernel) {
  using X = const std::vector<float>&;
  auto same = [](X x, int i) { return x[(size_t)i]; };
  auto reversed = [](X x, int i) { return x[(size_t)(127 - i)]; };
  auto neighbour = [](X x, int i) { return x[(size_t)(i ^ 1)]; };
  const std::map<std::string, Case> cases = {
      {"barrier", {1, 0, 128, reversed, 0}},
      {"second_barrier", {1, 0, 128, [](X x, int i) { return 3 * x[(size_t)(127 - i)]; }, 0}},
      {"divergent_barrier", {1, 0, 128, reversed, 0}},
      {"stuck", {1, 0, 128, neighbour, 0}},
      {"shuffle", {1, 0, 128, neighbour, 0}},
      {"shuffle_mask", {1, 0, 128, [](X x, int i) { return i % 32 < 16 ? x[(size_t)(i ^ 1)] : 0.f; }, 0}},
      {"async_copy", {1, 512, 128, reversed, 0}},
      {"async_groups", {1, 512, 128, same, 0}},
      {"warp_order", {1, 0, 128, neighbour, 0}},
      {"shared_write", {1, 512, 128, reversed, 0}},
      {"shared_read", {1, 512, 128, reversed, 0}},
      {"static_write", {1, 0, 128, reversed, 0}},
      {"uninitialised", {1, 0, 128, reversed, 0}},
      {"tail", {2, 0, 200, [](X, int) { return 2.f; }, 0}},
      {"global_read", {2, 0, 200, same, 0}},
      {"global_write", {2, 0, 200, same, 0}},
      {"across_blocks", {5, 0, 8, nullptr, 5}},
      {"last_block", {4, 0, 5, [](X x, int i) { return i < 4 ? x[(size_t)i] : x[0] + x[1] + x[2] + x[3]; }, 4}},
      {"launch_bound", {1, 0, 128, same, 0}},
  };
  const auto found = cases.find(kernel.substr(0, kernel.rfind('_')));
  if (found == cases.end()) return printf("%s has no case\n", kernel.c_str()), false;
  const Case& c = found->second;
  std::vector<float> x((size_t)c.n);
  for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i + 1);
  const OnDevice<float> dx(x), dy(x.size());
  const OnDevice<int> count(std::vector<int>{0});
  MUST(launch(module, kernel.c_str(), c.grid, 128, c.smem, Params{dx.at, dy.at, count.at, c.n}));
  MUST(cuCtxSynchronize());
  const std::vector<float> y = dy.get();
  for (int i = 0; c.want && i < c.n; i++)
    if (y[(size_t)i] != c.want(x, i))
      return printf("%s wrong: y[%d] is %g, not %g\n", kernel.c_str(), i, (double)y[(size_t)i],
                    (double)c.want(x, i)),
             false;
  if (count.get()[0] != c.count)
    return printf("%s wrong: counted %d, not %d\n", kernel.c_str(), count.get()[0], c.count), false;
  printf("%s ok\n", kernel.c_str());
  return true;
}

int main(int argc, char** argv) {
  void* module = open_device();
  bool well = true;
  for (int i = 1; i < argc; i++) well &= run(module, argv[i]);
  return !well;
}
