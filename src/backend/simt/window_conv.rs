//! Launchers of `kernels/window_conv.cu`.
//! The weights of all heights form one convolution. Its tiles include the rows before them that windows reach. The
//! products of the backward pass are those of dilated convolution.

use super::{
    BLOCKS, Simt,
    dilated_conv::{Conv, tiles},
    kernels::*,
};
use crate::{
    mem::Precision,
    ops::{Run, Valid, WindowConvBwd, WindowConvFwd, dilated_conv::Taps, window_conv::taps},
};

/// The longest window. A tile of f32 has 64 rows, and L-1 of them only serve the windows of later rows.
const LONGEST: usize = 32;

/// Rows with sequences that a block of the routing kernel holds at a time (kTile).
const TILE: usize = 64;

/// Returns the columns of all heights in the kernels' layout: rounded up for loads of 16 bytes.
fn columns(l: usize, f: usize) -> usize {
    (l * f).next_multiple_of(8)
}

/// Returns the bytes of scratch of an array, rounded up so that each array begins at a multiple of 256 bytes.
fn room(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

/// Returns the bytes of the weights as one matrix per tap.
fn expanded(d: usize, l: usize, f: usize, act_bytes: usize) -> usize {
    room(l * d * columns(l, f) * act_bytes)
}

/// Returns the convolution of all heights.
fn conv(n: usize, b: usize, d: usize, l: usize, f: usize) -> Conv {
    Conv { n, b, i: d, o: columns(l, f), taps: Taps { count: l, dilation: 1, causal: true } }
}

/// Checks that the window length and the grid are supported.
fn served(conv: &Conv) -> Result<(), String> {
    match conv.taps.count > LONGEST {
        true => Err(format!("windows of {} rows: at most {LONGEST} are supported", conv.taps.count)),
        false => conv.served(),
    }
}

/// Returns the largest number of parts of the rows of db's sum, for any batch of at most `n` rows.
fn most_parts(n: usize, columns: usize) -> usize {
    (2 * BLOCKS / columns.div_ceil(64)).clamp(1, n.div_ceil(TILE).max(1))
}

/// Returns the number of parts, and the rows per part.
fn parts(n: usize, columns: usize) -> (usize, usize) {
    let rows = n.div_ceil(most_parts(n, columns)).next_multiple_of(TILE).max(TILE);
    (n.div_ceil(rows).max(1), rows)
}

/// Byte sizes of the scratch of the backward pass, one array after another.
struct Scratch {
    weights: usize,
    dc: usize,
    db: usize,
    dw: usize,
}

impl Scratch {
    fn new(op: &WindowConvBwd, act_bytes: usize) -> Scratch {
        let (conv, width) = (conv(op.n, op.b, op.d, op.l, op.f), columns(op.l, op.f));
        Scratch {
            weights: expanded(op.d, op.l, op.f, act_bytes),
            dc: room(op.n * width * act_bytes),
            db: room(4 * most_parts(op.n, width) * op.l * op.f),
            dw: room(4 * conv.most_parts() * op.l * op.d * width),
        }
    }

    fn bytes(&self) -> usize {
        self.weights + self.dc + self.db + self.dw
    }
}

impl Simt {
    /// Writes the weights of all heights, (L,D,C), to `out`.
    fn expand(&mut self, out: Ptr, w: Ptr, (d, l, f): (usize, usize, usize)) {
        let width = columns(l, f);
        let params = WindowConvExpandParams { out, w, d: d as i32, l: l as i32, f: f as i32, columns: width as i32 };
        self.launch(self.of(WINDOW_CONV_EXPAND), [(l * d * width).div_ceil(256), 1, 1], 0, params);
    }
}

impl Run<WindowConvFwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, WindowConvFwd>) {
        let width = columns(op.l, op.f);
        let (pair, most) = if width <= 64 { (WINDOW_CONV_FWD_C64, 64) } else { (WINDOW_CONV_FWD_C128, 128) };
        let (bytes, rows) = shared(self.precision, most, self.act_bytes());
        let weights = self.scratch(expanded(op.d, op.l, op.f, self.act_bytes()));
        self.expand(weights, self.weight(op.w), (op.d, op.l, op.f));
        let step = rows - (op.l - 1);
        let params = WindowConvFwdParams {
            y: self.at(op.y),
            at: self.at(op.at),
            x: self.at(op.x),
            w: weights,
            bias: self.at(op.bias),
            cu: self.at(op.cu),
            n: op.n as i64,
            b: op.b as i32,
            d: op.d as i32,
            l: op.l as i32,
            f: op.f as i32,
            columns: width as i32,
            step: step as i32,
        };
        self.launch(self.of(pair), [op.n.div_ceil(step), width.div_ceil(most), 1], bytes, params);
    }

    fn need(&self, op: &WindowConvFwd) -> Result<usize, String> {
        served(&conv(op.n, op.b, op.d, op.l, op.f))?;
        Ok(expanded(op.d, op.l, op.f, self.act_bytes()))
    }
}

/// Returns the shared memory of the forward pass, with c in f32 in place of the product's tiles, and the rows of a
/// tile.
fn shared(precision: Precision, columns: usize, act_bytes: usize) -> (usize, usize) {
    let (bytes, rows) = tiles(precision, columns, act_bytes);
    (bytes.max(4 * rows * (columns + 8)), rows)
}

impl Run<WindowConvBwd> for Simt {
    fn execute(&mut self, op: &Valid<'_, WindowConvBwd>) {
        let ((dx, add_dx), (dw, add_dw), (db, add_db)) = (self.grad(op.dx), self.grad(op.dw), self.grad(op.db));
        let (sums, products) = (db != 0, dx != 0 || dw != 0);
        if !sums && !products {
            return;
        }
        let room = Scratch::new(op, self.act_bytes());
        let weights = self.scratch(room.bytes());
        let dc = weights + room.weights as Ptr;
        let db_partial = dc + room.dc as Ptr;
        let dw_partial = db_partial + room.db as Ptr;
        let (width, cu) = (columns(op.l, op.f), self.at(op.cu));
        let (parts, rows) = parts(op.n, width);
        let route = WindowConvRouteParams {
            dc: if products { dc } else { 0 },
            partial: if sums { db_partial } else { 0 },
            dy: self.at(op.dy),
            at: self.at(op.at),
            cu,
            n: op.n as i64,
            rows: rows as i64,
            b: op.b as i32,
            l: op.l as i32,
            f: op.f as i32,
            columns: width as i32,
        };
        self.launch(self.of(WINDOW_CONV_ROUTE), [width.div_ceil(64), parts, 1], 0, route);
        if sums {
            let (parts, o) = (parts as i32, op.l * op.f);
            let finish = BiasFinishParams { db, partial: db_partial, parts, o: o as i32, add: add_db };
            self.launch(Kernel::BiasBwdFinish, [o.div_ceil(32), 1, 1], 0, finish);
        }
        let conv = conv(op.n, op.b, op.d, op.l, op.f);
        if dx != 0 {
            self.expand(weights, self.weight(op.w), (op.d, op.l, op.f));
            self.conv_dx(&conv, (dx, add_dx), dc, weights, cu);
        }
        if dw != 0 {
            self.conv_dw(&conv, (dw_partial, 0), self.at(op.x), dc, cu);
            let len = taps(op.l) * op.d * op.f;
            let params = WindowConvDwParams {
                dw,
                partial: dw_partial,
                len: len as i64,
                part: (op.l * op.d * width) as i64,
                parts: conv.parts() as i32,
                d: op.d as i32,
                l: op.l as i32,
                f: op.f as i32,
                columns: width as i32,
                add: add_dw,
            };
            self.launch(Kernel::WindowConvDw, [len.div_ceil(256), 1, 1], 0, params);
        }
    }

    fn need(&self, op: &WindowConvBwd) -> Result<usize, String> {
        served(&conv(op.n, op.b, op.d, op.l, op.f)).map(|()| Scratch::new(op, self.act_bytes()).bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sm_89 and sm_120 give a block 99 KiB, the least of all compiled architectures.
    #[test]
    fn c_fits_into_the_smallest_shared_memory() {
        for (precision, act_bytes) in [(Precision::F32, 4), (Precision::Bf16, 2)] {
            for columns in [64, 128] {
                let (bytes, rows) = shared(precision, columns, act_bytes);
                assert!(bytes <= 94 << 10 && rows >= 2 * LONGEST);
            }
        }
    }

    #[test]
    fn fewer_rows_never_need_more_parts() {
        for width in [8, 80, 264, 50_000] {
            let mut most = 0;
            for n in (0..70_000).step_by(311) {
                let (parts, rows) = parts(n, width);
                most = most.max(parts);
                assert!(parts * rows >= n && most <= most_parts(n, width), "{n} rows of {width}");
            }
        }
    }
}
