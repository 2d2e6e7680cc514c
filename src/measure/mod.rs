/*! Measures the speed of this program on a machine and compares it with the machine's ceilings.

| module | contents |
|---|---|
| `ceilings` | the machine's ceilings, measured |
| `roof` | the roofline: the least time that an op can take |
| `bench` | every op by itself, at the sizes of models |
| `shapes` | those sizes |
| `clock` | timing of one op |
| `profile` | the steps of a run |
| `factors` | whether products are faster with bf16 factors |
*/

pub mod bench;
pub mod ceilings;
pub mod clock;
pub mod factors;
pub mod profile;
pub mod roof;
pub mod shapes;
