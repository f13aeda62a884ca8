#![doc = include_str!("../docs/guide.md")]

#[doc = include_str!("../docs/algorithm.md")]
#[doc = ""]
#[doc = include_str!("../docs/tiles.svg")]
#[doc = ""]
#[doc = include_str!("../docs/look_back.md")]
#[doc = ""]
#[doc = include_str!("../docs/look_back.svg")]
pub mod algorithm {}

#[doc = include_str!("../docs/numerics.md")]
pub mod numerics {}

#[doc = include_str!("../docs/memory.md")]
pub mod memory {}

#[doc = include_str!("../docs/options.md")]
pub mod options {}

#[doc = include_str!("../docs/custom_op.md")]
pub mod custom_op {}

#[doc = include_str!("../docs/gate_variant.md")]
pub mod gate_variant {}
