/*! field_bag: side fields of items. An item has any number of values in each of F fields (genres, director, …). Each
value has a row in one table, with the fields one after another. An item's vector in a field is the mean of these rows.
fwd: y[n,f] = share[o] * sum over z in start_o..start_o+1 of table[value_z],  o = item_n*F + f
     zeros where item n has no value in field f, or its id is not below V ([MASK], NO_ID)
     table (R,D)  item (N)  start (V*F+1)  value (Z)  share (V*F): 1 / number of values, 0 of none  y (N,F*D)
bwd: dtable_r = sum of share[owner_z] * ditem[owner_z] over the places z with key_z = r                         (R,D)
     ditem (V,F*D) = the sum of dy over the rows of each item (`segment_sum`)
     owner (Z) = the o of every value, sorted by table row;  key (Z) its table row: both follow from start and value

The backward pass iterates over items, not over rows of a batch. The values of an item never change, so the host
computes the summation order of a table row once ([`BagLists`]), and no step sorts values. A value shared by most items
is one long run of equal keys, which `segment` cuts into parts of equal length. The cost: ditem covers the whole
catalogue, and every step processes all Z values.
*/

use super::{
    Cost, Dst, NO_ID, Op, area,
    case::{Case, affordable},
    fits,
};
use crate::{
    base::{
        self, Error,
        rng::{Purpose, Stream},
    },
    mem::{Act, F32, Lent, Planner, Scalar, U32},
};

op! {
    /// Computes the means of table rows, field by field.
    BagFwd = "bag_fwd" {
        write { /** (N,F*D) */ y: Act }
        read {
            /** (R,D) */ table: F32, /** (N) */ item: U32,
            /** (V*F+1) */ start: U32, /** (Z) */ value: U32, /** (V*F) */ share: F32
        }
        with { n: usize, size: BagSize, d: usize }
    }
}

op! {
    /// Computes the gradient of [`BagFwd`] from the gradients summed by item.
    BagBwd = "bag_bwd" {
        grad { /** (R,D) */ dtable: F32 }
        read {
            /** (V,F*D) */ ditem: F32,
            /** (Z) ascending within a key */ owner: U32, /** (Z) ascending */ key: U32, /** (V*F) */ share: F32
        }
        with { size: BagSize, d: usize }
    }
}

/// The sizes of side fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BagSize {
    /// Number of items (V).
    pub items: usize,
    /// Number of fields per item (F).
    pub fields: usize,
    /// Rows of the table: the distinct values of all fields (R).
    pub rows: usize,
    /// Values of all items in all fields (Z).
    pub values: usize,
}

impl BagSize {
    /// Returns the number of pairs of an item and a field (V*F).
    pub fn pairs(&self) -> usize {
        area([self.items, self.fields])
    }
}

/// The values of each item in both directions: the contents of the spans of both ops.
#[derive(Clone, Debug, Default)]
pub struct BagLists {
    /// (V*F+1) the start of the values of (item, field).
    pub start: Vec<u32>,
    /// (Z) table rows.
    pub value: Vec<u32>,
    /// (V*F) 1 / number of values, or 0 without values.
    pub share: Vec<f32>,
    /// (Z) item*F + field of every value, sorted by table row.
    pub owner: Vec<u32>,
    /// (Z) the table rows, ascending.
    pub key: Vec<u32>,
    rows: usize,
    fields: usize,
}

impl BagLists {
    /// Builds the lists of `items` items.
    /// `field_values[f]` is the number of values of field f. `of(item, f)` returns the item's values, below that
    /// number. A repeated value counts twice.
    ///
    /// # Errors
    /// There are more pairs of an item and a field, or more values in all, than 32 bits can number.
    pub fn new<'a>(items: usize, field_values: &[usize], of: impl Fn(usize, usize) -> &'a [u32]) -> base::Result<Self> {
        let (fields, rows) = (field_values.len(), field_values.iter().sum::<usize>());
        let first_row: Vec<usize> = (0..fields).map(|f| field_values[..f].iter().sum()).collect();
        let pairs = || (0..items).flat_map(|item| (0..fields).map(move |f| (item, f)));
        let check = |what: usize, most: usize, of: &str| match what < most {
            true => Ok(()),
            false => Err(Error::user(format!("{items} items with {fields} side fields have {what} {of}: too many"))
                .hint(format!("use fewer side fields: fewer than {most} are supported"))),
        };
        check(items.saturating_mul(fields), NO_ID as usize, "pairs of item and field")?;
        check(rows, NO_ID as usize, "distinct values")?;
        let values: usize = pairs().map(|(item, f)| of(item, f).len()).sum();
        // The summing kernels count places in 31 bits.
        check(values, 1 << 31, "values")?;
        let (mut start, mut share) = (Vec::with_capacity(items * fields + 1), Vec::with_capacity(items * fields));
        let mut value: Vec<u32> = Vec::with_capacity(values);
        start.push(0);
        for (item, f) in pairs() {
            let ids = of(item, f);
            assert!(
                ids.iter().all(|id| (*id as usize) < field_values[f]),
                "item {item}: a value field {f} does not know"
            );
            value.extend(ids.iter().map(|id| first_row[f] as u32 + id));
            share.push(if ids.is_empty() { 0.0 } else { 1.0 / ids.len() as f32 });
            start.push(value.len() as u32);
        }
        // Places by table row: counted, then filled in ascending order of the owners.
        let mut next = vec![0u32; rows + 1];
        value.iter().for_each(|row| next[*row as usize + 1] += 1);
        (0..rows).for_each(|row| next[row + 1] += next[row]);
        let mut owner = vec![0; values];
        let mut key = vec![0; values];
        for (o, bounds) in start.windows(2).enumerate() {
            for row in &value[bounds[0] as usize..bounds[1] as usize] {
                let place = &mut next[*row as usize];
                (owner[*place as usize], key[*place as usize]) = (o as u32, *row);
                *place += 1;
            }
        }
        Ok(BagLists { start, value, share, owner, key, rows, fields })
    }

    pub fn size(&self) -> BagSize {
        let items = self.share.len().checked_div(self.fields).unwrap_or(0);
        BagSize { items, fields: self.fields, rows: self.rows, values: self.value.len() }
    }
}

impl Op for BagFwd {
    fn check(&self) -> Result<(), String> {
        let (n, d, s) = (self.n, self.d, self.size);
        if s.pairs() >= NO_ID as usize {
            return Err(format!("{} items with {} fields: their pairs have 32 bits", s.items, s.fields));
        }
        fits(&[
            ("y", self.y.len(), area([n, s.fields, d])),
            ("table", self.table.len(), area([s.rows, d])),
            ("item", self.item.len(), n),
            ("start", self.start.len(), s.pairs().saturating_add(1)),
            ("value", self.value.len(), s.values),
            ("share", self.share.len(), s.pairs()),
        ])
    }

    fn cost(&self) -> Cost {
        let (n, d, s) = (self.n, self.d, self.size);
        // Rows have the mean number of values of an item. Rows of the same item share its lists.
        let (rows, items) = (n * s.fields, n.min(s.items));
        let values = (n as f64 * s.values as f64 / s.items.max(1) as f64).ceil() as usize;
        Cost::work(((values + rows) * d) as f64, 0.0)
            .moves(self.y, rows * d)
            .weights(self.table, values.min(s.rows) * d)
            .moves(self.item, n)
            .moves(self.start, (items * (s.fields + 1)).min(s.pairs() + 1))
            .moves(self.value, values.min(s.values))
            .moves(self.share, items * s.fields)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, fields) = (self.d, self.size.fields);
        let (table, share) = (m.get(self.table), m.get(self.share));
        let (item, start, value) = (m.ids(self.item), m.ids(self.start), m.ids(self.value));
        m.compute(Dst::Write(self.y), self.n * fields * d, |at| {
            let (row, f, k) = (at / (fields * d), at / d % fields, at % d);
            if item[row] as usize >= self.size.items {
                return S::zero();
            }
            let o = item[row] as usize * fields + f;
            let rows = &value[start[o] as usize..start[o + 1] as usize];
            share[o] * rows.iter().map(|r| table[*r as usize * d + k]).sum()
        });
    }
}

impl Op for BagBwd {
    fn check(&self) -> Result<(), String> {
        let (d, s) = (self.d, self.size);
        fits(&[
            ("dtable", self.dtable.len_or(area([s.rows, d])), area([s.rows, d])),
            ("ditem", self.ditem.len(), area([s.pairs(), d])),
            ("owner", self.owner.len(), s.values),
            ("key", self.key.len(), s.values),
            ("share", self.share.len(), s.pairs()),
        ])
    }

    fn cost(&self) -> Cost {
        let (s, d) = (self.size, self.d);
        if !self.dtable.wanted() {
            return Cost::default();
        }
        let pairs = s.values.min(s.pairs());
        Cost::work((2 * s.values * d) as f64, 0.0)
            .scatters(self.dtable, s.values.min(s.rows) * d, s.rows * d)
            .moves(self.ditem, pairs * d)
            .moves(self.owner, s.values)
            .moves(self.key, s.values)
            .moves(self.share, pairs)
    }

    fn reference<S: Scalar>(&self, m: &Lent<'_, S>) {
        let (d, s) = (self.d, self.size);
        let (ditem, share) = (m.get(self.ditem), m.get(self.share));
        let (owner, key) = (m.ids(self.owner), m.ids(self.key));
        let mut sum = vec![S::zero(); s.rows * d];
        for z in 0..s.values {
            let (o, r) = (owner[z] as usize, key[z] as usize);
            (0..d).for_each(|k| sum[r * d + k] += share[o] * ditem[o * d + k]);
        }
        m.compute(self.dtable, s.rows * d, |at| sum[at]);
    }
}

pub fn cases() -> Vec<Case> {
    // Rows, items, fields, table rows, width, kind of values.
    [
        ([0, 3, 1, 2, 8], "any"),
        ([1, 1, 1, 1, 1], "any"),
        ([3, 5, 2, 4, 7], "any"),
        ([50, 20, 3, 30, 16], "some unknown"),
        ([40, 9, 2, 12, 64], "none"),
        ([6, 4, 2, 0, 8], "none"),
        ([64, 300, 2, 40, 33], "hot"),
        ([33, 40, 1, 500, 130], "any"),
        ([20, 10, 4, 6, 8], "hundreds"),
        // A run over dozens of parts, between others.
        ([70, 9000, 3, 50, 24], "hot"),
        ([200, 2500, 1, 9, 1], "hot"),
    ]
    .into_iter()
    .filter(|([_, items, fields, ..], _)| affordable(items * fields))
    .map(|([n, items, fields, rows, d], kind)| {
        let mut draw = Stream::new(12, Purpose::Test, (n + items) as u32);
        // Number of values of each field, and the values of each (item, field).
        let known: Vec<usize> = (0..fields).map(|f| rows * (f + 1) / fields - rows * f / fields).collect();
        let mut has: Vec<Vec<u32>> = Vec::new();
        for o in 0..items * fields {
            let known = known[o % fields] as u64;
            let many = match kind {
                "none" => 0,
                "hundreds" => draw.below(300),
                _ => draw.below(4),
            };
            let mut of: Vec<u32> = (0..many).map(|_| draw.below(known) as u32).collect();
            if kind == "hot" && o % 6 < 5 {
                of.push(known as u32 / 2);
            }
            has.push(of);
        }
        let lists = BagLists::new(items, &known, |item, f| &has[item * fields + f]).expect("few of them");
        let size = lists.size();
        let ids: Vec<u32> = (0..n)
            .map(|i| match kind {
                "some unknown" if i % 4 == 0 => [NO_ID, items as u32, items as u32 + 1][i / 4 % 3],
                _ => draw.below(items as u64) as u32,
            })
            .collect();
        // The upstream gradient consists of small fractions, so that its sums by item are exact, in bf16 too.
        let dy: Vec<f32> = (0..n * fields * d).map(|_| (draw.below(31) as f32 - 15.0) / 8.0).collect();
        let mut ditem = vec![0.0; items * fields * d];
        for (id, dy) in ids.iter().zip(dy.chunks((fields * d).max(1))).filter(|(id, _)| (**id as usize) < items) {
            let sum = &mut ditem[*id as usize * fields * d..][..fields * d];
            sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        let mut p = Planner::new();
        let (y, table, dtable) = (p.var(n * fields * d), p.weight(rows * d), p.stat(rows * d));
        let (item, start, value) = (p.index(n), p.index(lists.start.len()), p.index(size.values));
        let (owner, key) = (p.index(size.values), p.index(size.values));
        let (share, by_item) = (p.stat(size.pairs()), p.stat(size.pairs() * d));
        let fwd = BagFwd { y: y.y, table, item, start, value, share, n, size, d };
        let bwd = BagBwd { dtable: Dst::Write(dtable), ditem: by_item, owner, key, share, size, d };
        Case::new(format!("n{n} v{items} f{fields} r{rows} d{d} {kind}"), p, fwd, bwd)
            .input(table, 1.0, dtable)
            .output(y.y, y.dy)
            .values(y.dy, dy)
            .values(by_item, ditem)
            .values(share, lists.share)
            .ids(item, ids)
            .ids(start, lists.start)
            .ids(value, lists.value)
            .ids(owner, lists.owner)
            .ids(key, lists.key)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_tell_the_same_from_both_sides() {
        // Field 0 has three values, field 1 has two. Item 1 has no value in field 0, item 2 has one twice.
        let has: [&[u32]; 6] = [&[2, 0], &[1], &[], &[0, 1], &[0, 0], &[]];
        let lists = BagLists::new(3, &[3, 2], |item, f| has[item * 2 + f]).unwrap();
        assert_eq!(lists.size(), BagSize { items: 3, fields: 2, rows: 5, values: 7 });
        assert_eq!(lists.start, [0, 2, 3, 3, 5, 7, 7]);
        assert_eq!(lists.value, [2, 0, 4, 3, 4, 0, 0]);
        assert_eq!(lists.share, [0.5, 1.0, 0.0, 0.5, 0.5, 0.0]);
        assert_eq!(lists.key, [0, 0, 0, 2, 3, 4, 4]);
        assert_eq!(lists.owner, [0, 4, 4, 0, 3, 1, 3]);
    }

    #[test]
    fn what_32_bits_cannot_name_is_refused() {
        let e = BagLists::new(1 << 31, &[1, 1], |_, _| &[]).unwrap_err().to_string();
        assert!(e.contains("4294967296 pairs of item and field") && e.contains("fewer side fields"), "{e}");
    }
}
