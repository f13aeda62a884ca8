use super::*;
use crate::cuda::params::Operand;

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];

/// Those of the plain scan, for wide tensors.
fn plain(direction: Direction, dtype: DType) -> Kernel {
    Kernel::of_width(Form::Plain, direction, dtype, Width::Wide).unwrap()
}

#[test]
fn integers_have_no_kernel() {
    let error = Kernel::new(Form::Plain, Direction::Forward, DType::U8, 1, 1).unwrap_err().to_string();
    assert!(error.contains("expected dtype f16, bf16, f32 or f64, got U8"), "{error}");
}

#[test]
fn sizes_follow_from_the_shape() {
    for dtype in DTYPES {
        let kernel = plain(Direction::Forward, dtype);
        let (len, channels) = (kernel.tile().len() as usize, kernel.tile().channels() as usize);
        let params = kernel.params([3, 2 * len + 1, channels + 1]).unwrap();
        assert_eq!((params.batch, params.length, params.channels), (3, 2 * len as i64 + 1, channels as u32 + 1));
        assert_eq!((params.chunks, params.channel_tiles, params.tiles()), (3, 2, 18));
        // a row per chunk, none per group of them
        assert_eq!(params.look_back.rows(params.chunks), 3);
        let packet = if dtype == DType::F64 { 32 } else { 16 };
        assert_eq!(kernel.workspace_bytes(&params), 128 + 3 * (3 * 2 * channels as u64) * packet);
        let saved_len = plain(Direction::Backward, dtype).tile().len();
        assert_eq!(1 << params.saved_shift, saved_len);
        assert_eq!(kernel.saved_rows(5 * saved_len as usize + 1), 6);
    }
}

#[test]
fn a_single_chunk_needs_no_packets() {
    let kernel = plain(Direction::Backward, DType::F64);
    assert_eq!(kernel.workspace_bytes(&kernel.params([5, 1, 1000]).unwrap()), 128);
}

#[test]
fn too_many_tiles() {
    let kernel = plain(Direction::Forward, DType::F32);
    let len = kernel.tile().len() as usize;
    let most = kernel.params([1, ((1 << 31) - 1) * len, 1]).unwrap();
    assert_eq!(most.chunks, i32::MAX as u32);
    for dims in [[1, len << 31, 1], [1 << 31, 1, 1], [1, 1, 1 << 31], [1 << 16, 1 << 16, 1 << 16], [1, 0, 1]] {
        let error = kernel.params(dims).unwrap_err().to_string();
        assert!(error.contains("2^31 - 1, got"), "{error}");
    }
}

/// Arguments of a `[4, 8, 64]` scan in one allocation per tensor.
fn aligned(kernel: Kernel, dtype: DType) -> Params {
    let dims = [4, 8, 64];
    let operand = |address| Operand::new(address, dims, [512, 64, 1], dtype).unwrap();
    let (x, a, b, c) = (operand(0x1000), operand(0x2000), operand(0x3000), operand(0x4000));
    Params { x, a, b, c, y: 0x5000, ..kernel.params(dims).unwrap() }
}

#[test]
fn entry_points() {
    for direction in DIRECTIONS {
        for dtype in DTYPES {
            let kernel = plain(direction, dtype);
            let mut params = aligned(kernel, dtype);
            assert_eq!(kernel.entry(&params), format!("quick_ssm_{}_vector", kernel.name()));
            params.offsets = 0x6000;
            assert_eq!(kernel.entry(&params), format!("quick_ssm_{}_vector_packed", kernel.name()));
            params.a.data += dtype.size_in_bytes() as u64;
            assert_eq!(kernel.entry(&params), format!("quick_ssm_{}_element_packed", kernel.name()));
        }
    }
    let gated = Kernel::of_width(Form::Gated, Direction::Forward, DType::BF16, Width::Wide).unwrap();
    assert_eq!(gated.entry(&aligned(gated, DType::BF16)), "quick_ssm_gated_forward_bf16_vector");
    let narrow = Kernel::new(Form::Plain, Direction::Forward, DType::F32, 4, 64).unwrap();
    assert_eq!(narrow.entry(&aligned(narrow, DType::F32)), "quick_ssm_forward_f32_narrow_vector");
}

#[test]
fn vectors_need_alignment() {
    let kernel = plain(Direction::Backward, DType::BF16);
    let fine = aligned(kernel, DType::BF16);
    let vectorised = |change: fn(&mut Params)| {
        let mut params = fine;
        change(&mut params);
        kernel.vectorised(&params)
    };
    assert!(vectorised(|p| p.x.data += 16));
    assert!(!vectorised(|p| p.x.data += 4));
    assert!(vectorised(|p| p.b.time_stride = 0));
    assert!(!vectorised(|p| p.b.time_stride = 66));
    assert!(!vectorised(|p| p.b.batch_stride = 514));
    assert!(!vectorised(|p| p.c.channel_stride = 0));
    assert!(vectorised(|p| p.c = Operand::default()));
    assert!(!vectorised(|p| p.channels = 66));
    assert!(!vectorised(|p| p.dx = 0x7008));
    assert!(!vectorised(|p| p.saved_states = 0x7008));
    // a gradient of another dtype is not read by vectors
    assert!(!vectorised(|p| p.grad_y = Operand { data: 0x8002, dtype: 2, ..p.x }));
    assert!(vectorised(|p| p.grad_y = Operand { data: 0x8004, dtype: 0, ..p.x }));
}

#[test]
fn large_tiles_are_for_large_problems_in_vectors_where_there_is_room() {
    let kernel = plain(Direction::Backward, DType::BF16);
    let of = |channels: u32, change: fn(&mut Params), device: Room| {
        let sizes = kernel.params([8, 8192, channels as usize]).unwrap();
        let rows = aligned(kernel, DType::BF16);
        let mut params = Params { x: rows.x, a: rows.a, b: rows.b, c: rows.c, grad_y: rows.grad_y, ..sizes };
        change(&mut params);
        let (chosen, recut) = kernel.or_larger(kernel.larger(), params, device);
        assert_eq!(chosen.entry(&recut).contains("_large_vector"), chosen != kernel);
        assert_eq!(recut, chosen.cut_channels(params));
        chosen != kernel
    };
    let device = Room { processors: 132, shared_bytes: 227 << 10 };
    assert!(of(1536, |_| (), device));
    // 8 * 128 tiles of 128 channels
    assert!(of(128, |_| (), Room { processors: 256, ..device }));
    assert!(!of(128, |_| (), Room { processors: 257, ..device }));
    assert!(!of(1536, |_| (), Room { shared_bytes: 163 << 10, ..device }));
    assert!(!of(1536, |p| p.offsets = 0x9000, device));
    assert!(!of(1536, |p| p.x.data += 4, device));
}
