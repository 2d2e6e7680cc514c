//! A decoded kernel: flat instructions. Their operands are numbers of registers.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A comparison of `setp`. The last eight are true for, or about, NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// A state space of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    Param,
    Shared,
    Global,
    Local,
    Generic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomic {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    Or,
    And,
    Xor,
    Exchange,
    CompareAndSwap,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shuffle {
    Index,
    Butterfly,
    Up,
    Down,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    Ballot,
    Any,
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduction {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
}

/// What a barrier combines of the threads' predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    Nothing,
    Or,
    And,
    Count,
}

/// The register that an address is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    None,
    Word(u32),
    Long(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
}

/// The type of a `ld` or `st`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub space: Space,
    /// Bytes of an element.
    pub bytes: u8,
    /// Elements: 1, 2 or 4.
    pub count: u8,
    /// Whether a load extends the sign.
    pub signed: bool,
    /// Whether its registers have 16 bits.
    pub half: bool,
    /// Whether its registers have 64 bits.
    pub long: bool,
}

/// What an instruction does. Names end in the width, and the sign where it matters: `MulHiS32` is `mul.hi.s32`. `F` is
/// f32, `D` f64. Numbers of 16 bits are kept in words with a zero upper half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[rustfmt::skip]
pub enum Op {
    Add32, Sub32, Mul32, MulHiU32, MulHiS32, Mad32, DivU32, DivS32, RemU32, RemS32,
    MinU32, MinS32, MaxU32, MaxS32, Shl32, ShrU32, ShrS32, And32, Or32, Xor32, Not32, Neg32, Abs32,
    Bfi32, BfeU32, BfindShift, Brev32, Popc32, Clz32, Prmt, Select32, Mov32,
    Add16, Sub16, Mul16, Shl16, ShrU16, ShrS16, Not16, MulWideU16, MulWideS16,
    Add64, Sub64, Mul64, MulHiU64, Mad64, DivU64, DivS64, RemU64, RemS64,
    MinU64, MinS64, MaxU64, MaxS64, Shl64, ShrU64, ShrS64, And64, Or64, Xor64, Not64, Neg64,
    Bfi64, Popc64, Clz64, Brev64, Select64, Mov64, MulWideU32, MulWideS32, MadWideU32, MadWideS32,
    AddF, SubF, MulF, FmaF, DivF, RcpF, SqrtF, Exp2, Exp2Ftz, Log2, TanhF, MinF, MaxF, AbsF, NegF,
    CopySign, AddRz, FmaRm, RcpFtz, DivD, DoubleOfU64, DoubleOfS64,
    CompareU32(Comparison), CompareS32(Comparison), CompareU64(Comparison), CompareS64(Comparison),
    CompareS16(Comparison), CompareF(Comparison),
    AndP, OrP, XorP, NotP, MovP,
    SignExtend, ZeroExtend, SignExtendLow, ZeroExtendLow, Low32, Low16, Low16Of64, SignExtend16,
    FloatOfBf16, Bf16OfFloat, Bf16PairOfFloats, FloatOfS32, FloatOfU32, FloatOfS64, FloatOfU64, FloatOfDouble,
    Saturate, ToU32, ToS32, RoundEven,
    Pack16, Unpack16, Pack32, Unpack32,
    ToGeneric(Space), FromGeneric(Space),
    Load(Access, Address), Store(Access, Address),
    Atomic { space: Space, what: Atomic, bytes: u8, at: Address },
    CopyAsync { size: u8, to: Address, from: Address },
    CopyCommit,
    /// All but this many of the newest groups; -1: everything, committed or not.
    CopyWait(i64),
    Branch(u32), Exit, Trap, Nop, ActiveMask,
    Barrier(Combine), WarpBarrier, Shuffle(Shuffle), Vote { what: Vote, negated: bool }, Reduce(Reduction),
    LoadMatrix { count: u8, transposed: bool, at: Address }, Mma,
    FenceAsync, GroupFence, GroupCommit, GroupWait(i64),
    GroupMma { left_in_registers: bool, right_transposed: bool },
}

/// No register.
pub const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub struct Instruction {
    pub op: Op,
    /// The predicate that lanes must have, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The destination and the sources, each in the register file that the operation reads.
    pub to: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    /// Further operands, in the order of the text.
    pub list: Box<[u32]>,
    /// Line of the PTX text.
    pub line: u32,
}

/// The first registers of the word file: special registers, filled when a block starts.
pub const TID: u32 = 0;
pub const NTID: u32 = 3;
pub const CTAID: u32 = 6;
pub const NCTAID: u32 = 9;
pub const LANE: u32 = 12;
pub const FIRST_WORD: u32 = 13;

/// The first predicates: false and true.
pub const FIRST_PREDICATE: u32 = 2;

/// Windows of generic addresses, far from any host pointer.
pub const SHARED_WINDOW: u64 = 1 << 60;
pub const LOCAL_WINDOW: u64 = 1 << 61;
pub const PARAM_WINDOW: u64 = 1 << 62;

/// What has been seen of an instruction: it was carried out, its branch was taken, it was not taken.
pub const RUN: u8 = 1;
pub const TAKEN: u8 = 2;
pub const NOT_TAKEN: u8 = 4;

/// One entry of a module.
#[derive(Debug, Default)]
pub struct Kernel {
    pub name: String,
    /// Bytes of its parameter struct.
    pub params: usize,
    pub max_threads: u32,
    pub code: Vec<Instruction>,
    /// The text of each instruction, for reports.
    pub text: Vec<String>,
    pub words: usize,
    pub longs: usize,
    pub predicates: usize,
    /// Constants are registers too, so that an operand is always a register.
    pub word_constants: Vec<(u32, u32)>,
    pub long_constants: Vec<(u32, u64)>,
    /// Where dynamic shared memory begins.
    pub dynamic_at: usize,
    /// Bytes of local memory of a thread.
    pub local: usize,
    /// File and line of each instruction in the CUDA source; zeros where unknown.
    pub source: Vec<(u32, u32)>,
    /// Of each instruction, the bits [`RUN`], [`TAKEN`] and [`NOT_TAKEN`] since the program started.
    pub seen: Vec<AtomicU8>,
    /// Whether it multiplies by wgmma, which reads shared memory through another proxy.
    pub uses_wgmma: bool,
}

impl Kernel {
    pub fn mark(&self, at: usize, bits: u8) {
        if self.seen[at].load(Relaxed) & bits != bits {
            self.seen[at].fetch_or(bits, Relaxed);
        }
    }
}
