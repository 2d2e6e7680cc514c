//! Side fields and user vectors in addition to item vectors: compared with PyTorch, and rejected settings.

use mipgpu::{
    backend::{Cpu, Reference, emulated},
    layers::{BatchShape, Capacity, Fields, Input, Join, Side, SideConfig, Users},
    mem::{Planner, Precision, RawSpan},
    ops::{Backend, BagLists, BagSize, Memory},
};
use safetensors::SafeTensors;

fn capacity(b: usize, n: usize) -> Capacity {
    Capacity { b, n, m: 1, t: n, rounding: [1, 1] }
}

fn read<B: Memory>(b: &mut B, span: RawSpan) -> Vec<f32> {
    let mut values = vec![0.0; span.len()];
    b.read(span, &mut values);
    values
}

/// Compares with the numbers of tests/fixtures/side.py, which this test does not run.
fn beside_pytorch<B: Backend>(variant: &str, open: impl Fn(&Planner) -> B, tolerance: f32) {
    let path = format!("{}/tests/fixtures/side.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let fixture = SafeTensors::deserialize(&bytes).unwrap();
    let four = |name: &str| -> Vec<[u8; 4]> {
        fixture.tensor(name).unwrap().data().chunks_exact(4).map(|c| c.try_into().unwrap()).collect()
    };
    let ids = |name: &str| -> Vec<u32> { four(name).into_iter().map(u32::from_le_bytes).collect() };
    let floats =
        |name: &str| -> Vec<f32> { four(&format!("{variant}/{name}")).into_iter().map(f32::from_le_bytes).collect() };
    let (item, user, cu, start, value) = (ids("item"), ids("user"), ids("cu"), ids("has.start"), ids("has.value"));
    let known: Vec<usize> = ids("known").into_iter().map(|k| k as usize).collect();
    let items = (start.len() - 1) / known.len();
    let lists = BagLists::new(items, &known, |item, f| {
        let o = item * known.len() + f;
        &value[start[o] as usize..start[o + 1] as usize]
    })
    .unwrap();
    assert!(item.contains(&(items as u32)) && user.contains(&Users::NOBODY), "[MASK] and nobody are among them");

    let (n, b) = (item.len(), user.len());
    let mut plan = Planner::new();
    let input = Input::plan(&mut plan, capacity(b, n));
    let d = fixture.tensor(&format!("{variant}/x")).unwrap().shape()[1];
    let width = |table: &str| fixture.tensor(&format!("{variant}/{table}")).ok().map(|t| (t.shape()[0], t.shape()[1]));
    let config = SideConfig {
        fields: width("field.weight").map(|(_, width)| (lists.size(), width)),
        users: width("user.weight"),
        join: if ["concat", "users"].contains(&variant) { Join::Concat } else { Join::Sum },
        std: 0.1,
    };
    let x = plan.var(n * d);
    let side = Side::plan(&mut plan, x, d, &input, &config).unwrap();
    let shape = BatchShape { b, n, ..BatchShape::default() };
    let params = plan.params().to_vec();
    let mut device = open(&plan);
    for p in &params {
        let name = format!("{variant}/{}", p.name);
        assert_eq!(fixture.tensor(&name).unwrap().shape(), p.shape, "{name}");
        device.write(p.w.raw(), &floats(&p.name));
    }
    side.write(&mut device, &lists).unwrap();
    for (span, ids) in [(input.item, &item), (input.user, &user), (input.cu, &cu)] {
        device.write_ids(span, ids);
    }
    device.write(x.y.raw(), &floats("x"));
    side.forward(&mut device, &shape);
    device.write(side.y.dy.raw(), &floats("grad.y"));
    side.backward(&mut device, &shape);
    device.sync().unwrap();
    let mut compare = |what: &str, span, want: Vec<f32>| {
        let largest = want.iter().fold(1e-3f32, |a, x| a.max(x.abs()));
        for (i, (h, w)) in read(&mut device, span).iter().zip(&want).enumerate() {
            assert!((h - w).abs() <= tolerance * largest, "{variant} {what}[{i}] is {h}, PyTorch {w}");
        }
    };
    compare("y", side.y.y.raw(), floats("y"));
    compare("dx", x.dy.raw(), floats("grad.x"));
    for p in &params {
        compare(&format!("d {}", p.name), p.dw.raw(), floats(&format!("grad.{}", p.name)));
    }
}

#[test]
fn fields_and_users_agree_with_pytorch() {
    for variant in ["concat", "sum", "fields", "users"] {
        // The fixture contains f32 roundings of an f64 computation: the reference agrees to the last place or two of
        // f32. Shares of a third are f32 in both.
        beside_pytorch(variant, Reference::<f64>::new, 1e-6);
        beside_pytorch(variant, Cpu::new, 2e-5);
        beside_pytorch(variant, |plan| emulated(Precision::F32, plan).unwrap(), 2e-5);
    }
}

#[test]
fn what_cannot_stand_beside_items_is_refused() {
    let size = BagSize { items: 3, fields: 1, rows: 2, values: 4 };
    let side = |fields, users| {
        let mut p = Planner::new();
        let input = Input::plan(&mut p, capacity(2, 10));
        let x = p.var(80);
        let config = SideConfig { fields, users, join: Join::Sum, std: 0.1 };
        Side::plan(&mut p, x, 8, &input, &config).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(side(Some((size, 4)), Some((9, 1))).is_ok());
    assert!(side(None, None).unwrap_err().contains("neither side fields nor users"));
    let e = side(Some((BagSize::default(), 4)), None).unwrap_err();
    assert!(e.contains("no side fields") && e.contains("--item-fields"), "{e}");
    assert!(side(Some((size, 0)), None).unwrap_err().contains("have width 0"));
    assert!(side(None, Some((0, 4))).unwrap_err().contains("vectors of 0 users"));
    assert!(side(None, Some((4, 0))).unwrap_err().contains("0 wide"));
}

#[test]
fn lists_of_another_data_set_are_refused() {
    let mut p = Planner::new();
    let input = Input::plan(&mut p, capacity(2, 10));
    let lists = |items| BagLists::new(items, &[2], |_, _| &[1, 0]).unwrap();
    let fields = Fields::plan(&mut p, &input, lists(3).size(), 4, 0.1).unwrap();
    let mut b = Cpu::new(&p);
    assert!(fields.write(&mut b, &lists(3)).is_ok());
    let e = fields.write(&mut b, &lists(4)).unwrap_err().to_string();
    assert!(e.contains("4 items") && e.contains("planned were 3 items") && e.contains("same data set"), "{e}");
}
