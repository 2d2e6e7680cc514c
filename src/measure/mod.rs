/*! How fast this program is on a machine, beside what the machine can do: ceilings that it measures itself (`ceilings`), the
time that an op must take at least (`roof`), every op by itself (`bench`) at the sizes of models (`shapes`), the steps of
a run (`profile`), and which factors its products are fastest in (`factors`).
*/

pub mod bench;
pub mod ceilings;
pub mod clock;
pub mod factors;
pub mod profile;
pub mod roof;
pub mod shapes;
