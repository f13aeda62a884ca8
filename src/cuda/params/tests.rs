use super::*;

#[test]
fn the_tree_of_carries() {
    let wide = LookBackPlan::new(1000, 16);
    assert_eq!((wide.shift, wide.begin, wide.rows(1000)), ([0, 1, 3], [0, 1000, 1500], 1000 + 500 + 125));
    let middle = [8, 15].map(|channel_tiles| LookBackPlan::new(1000, channel_tiles));
    assert_eq!((middle[0].shift, middle[0].rows(1000), middle[1]), ([0, 2, 4], 1000 + 250 + 62, middle[0]));
    let narrow = LookBackPlan::new(1000, 7);
    assert_eq!((narrow.shift, narrow.rows(1000)), ([0, 4, 6], 1000 + 62 + 15));
    let single = LookBackPlan::new(1, 1);
    assert_eq!((single.begin, single.rows(1)), ([0; 3], 0));
}

/// As a kernel divides.
fn quotient(number: u32, by: Divisor) -> u32 {
    match by.magic {
        0 => number,
        magic => ((u64::from(number) * u64::from(magic)) >> 32) as u32 >> by.shift,
    }
}

#[test]
fn divisors() {
    let largest = i32::MAX as u32;
    for by in [1, 2, 3, 5, 7, 8, 9, 24, 192, 641, 65_535, 65_536, 65_537, largest / 2, largest - 1, largest] {
        for number in [0, 1, by - 1, by, by.saturating_add(1), 2 * (by / 2), 1_000_003, largest - 1, largest] {
            for number in [number, number / by * by, (number / by * by).saturating_sub(1)] {
                let number = number.min(largest);
                assert_eq!(quotient(number, Divisor::new(by)), number / by, "{number} / {by}");
            }
        }
    }
}

#[test]
fn operands_lie_in_the_order_of_time() {
    let operand = Operand::new(0x1000, [2, 5, 4], [20, 4, 1], DType::BF16).unwrap();
    let reversed = operand.reversed(5, DType::BF16);
    assert_eq!(reversed, Operand { data: 0x1000 + 4 * 4 * 2, time_stride: -4, ..operand });
    assert_eq!(Operand::default().reversed(5, DType::BF16), Operand::default());
}

#[test]
fn strides_of_single_elements_do_not_matter() {
    let operand = Operand::new(0x1000, [1, 1, 64], [777, 333, 1], DType::F32).unwrap();
    assert_eq!((operand.batch_stride, operand.time_stride, operand.channel_stride), (0, 0, 1));
    let operand = Operand::new(0x1000, [2, 2, 1], [2, 1, 5], DType::F32).unwrap();
    assert_eq!((operand.batch_stride, operand.time_stride, operand.channel_stride), (2, 1, 1));
    let error = Operand::new(0x1000, [1, 2, 3], [6, 1, 2], DType::F32).unwrap_err().to_string();
    assert!(error.contains("expected a channel stride of 0 or 1, got 2"), "{error}");
}
