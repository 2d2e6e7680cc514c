/*! gather_sequences: the sequences of a batch, from the interactions of all users.
raw[cu_b + i] = data[first_b + i], i in 0..cu_b+1 - cu_b; zeros where first_b is NO_ROW (padding)
data (I)  first (B)  cu (B+1)  raw (N), N = cu_B
*/

use super::{Cost, NO_ROW, Op, case::Case, fits};
use crate::{
    base::rng::{Purpose, Stream},
    mem::{Lent, Planner, Scalar, U32},
};

op! {
    /// Packs sequences one after another.
    GatherSequences = "gather_sequences" {
        write { /** (N) */ raw: U32 }
        read {
            /** (I) items of all users */ data: U32, /** (B) start of each sequence in `data` */ first: U32,
            /** (B+1) */ cu: U32
        }
        with { b: usize, n: usize }
    }
}

impl GatherSequences {
    /// Fills the rows of sequence `s`.
    pub(crate) fn copy(data: &[u32], first: u32, raw: &mut [u32]) {
        match first {
            NO_ROW => raw.fill(0),
            first => raw.copy_from_slice(&data[first as usize..][..raw.len()]),
        }
    }
}

impl Op for GatherSequences {
    fn check(&self) -> Result<(), String> {
        if self.data.len() > NO_ROW as usize {
            return Err(format!("{} interactions: at most 2^32 - 1 are supported", self.data.len()));
        }
        fits(&[
            ("raw", self.raw.len(), self.n),
            ("first", self.first.len(), self.b),
            ("cu", self.cu.len(), self.b.saturating_add(1)),
        ])
    }

    fn cost(&self) -> Cost {
        Cost::default()
            .moves(self.raw, self.n)
            .moves(self.data, self.n.min(self.data.len()))
            .moves(self.first, self.b)
            .moves(self.cu, self.b + 1)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (data, first, cu) = (m.ids(self.data), m.ids(self.first), m.ids(self.cu));
        let raw = m.ids_mut(self.raw);
        for s in 0..self.b {
            Self::copy(data, first[s], &mut raw[cu[s] as usize..cu[s + 1] as usize]);
        }
    }
}

pub fn cases() -> Vec<Case> {
    // Lengths. Every third sequence is padding where `pad`.
    let shapes: [(&[usize], bool); 5] = [
        (&[], false),
        (&[1], false),
        (&[3, 0, 7, 1], false),
        (&[200, 33, 1, 64, 65, 200], true),
        (&[5000, 1, 130], true),
    ];
    shapes
        .into_iter()
        .map(|(lengths, pad)| {
            let mut p = Planner::new();
            let (b, n) = (lengths.len(), lengths.iter().sum());
            let mut draw = Stream::new(6, Purpose::Test, n as u32);
            let data: Vec<u32> = (0..6000).map(|_| draw.below(1 << 32) as u32).collect();
            let mut cu = vec![0];
            let mut first = Vec::new();
            for (i, len) in lengths.iter().enumerate() {
                cu.push(cu[i] + *len as u32);
                let start = draw.below((data.len() - len + 1) as u64) as u32;
                first.push(if pad && i % 3 == 2 { NO_ROW } else { start });
            }
            let op = GatherSequences {
                raw: p.index(n),
                data: p.index(data.len()),
                first: p.index(b),
                cu: p.index(b + 1),
                b,
                n,
            };
            Case::forward(format!("b{b} n{n}"), p, op).ids(op.data, data).ids(op.first, first).ids(op.cu, cu)
        })
        .collect()
}
