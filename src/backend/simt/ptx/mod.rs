/*! Runs the PTX that nvcc wrote for the kernels, on the processor.

nvcc compiles a kernel to PTX, and ptxas compiles the PTX to machine code. This interpreter carries the PTX out, so that
tests cover what the emulator cannot: nvcc's front end and the inline assembly of `kernels/common/ptx.cuh`. It stands
behind the emulator's driver (`kernels/emu/driver.cpp`), which takes PTX as NVIDIA's does.

| File | Contents |
|---|---|
| `text`, `module` | statements of the text; directives and entries of a module |
| `decoder`, `functions`, `instructions`, `movement`, `collectives` | an entry as flat instructions (`program`) |
| `block`, `warp`, `run` | blocks and barriers; groups of lanes; the instructions |
| `alu`, `arithmetic` | registers; arithmetic |
| `memory`, `races`, `fences` | memory and the models that watch it |
| `tensor`, `wgmma` | products |
| `interpreter` | the interface to the driver |

The semantics are those of the PTX ISA. What is not known is an error when the kernel is decoded.
*/

mod alu;
mod arithmetic;
mod block;
mod collectives;
mod decoder;
mod fences;
mod functions;
mod instructions;
pub mod interpreter;
mod memory;
mod module;
mod movement;
mod program;
mod races;
mod run;
mod tensor;
#[cfg(test)]
mod tests;
mod text;
mod warp;
mod wgmma;
