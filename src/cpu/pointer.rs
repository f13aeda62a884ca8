//! Pointers into slices. With debug assertions they know how far they reach, and every access is checked.

use std::mem::MaybeUninit;
#[cfg(debug_assertions)]
use std::ops::Range;

/// A raw pointer to elements.
pub(crate) trait Raw: Copy {
    type Element;

    fn offset(self, elements: isize) -> Self;

    fn address(self) -> *const Self::Element;
}

macro_rules! raw {
    ($($pointer:ty),*) => {$(
        impl<T> Raw for $pointer {
            type Element = T;

            #[inline(always)]
            fn offset(self, elements: isize) -> Self {
                self.wrapping_offset(elements)
            }

            #[inline(always)]
            fn address(self) -> *const T {
                self
            }
        }
    )*};
}
raw!(*const T, *mut T);

/// A pointer to elements of a slice.
pub(crate) struct Pointer<P: Raw> {
    raw: P,
    #[cfg(debug_assertions)]
    bounds: (*const P::Element, *const P::Element),
}

impl<P: Raw> Clone for Pointer<P> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Raw> Copy for Pointer<P> {}

impl<T> Pointer<*const T> {
    /// To the first one of `elements`.
    #[inline(always)]
    pub fn to(elements: &[T]) -> Self {
        Self {
            raw: elements.as_ptr(),
            #[cfg(debug_assertions)]
            bounds: bounds(elements.as_ptr_range()),
        }
    }
}

impl<T> Pointer<*mut T> {
    /// To the first one of `elements`.
    #[inline(always)]
    pub fn to_mut(elements: &mut [T]) -> Self {
        Self {
            raw: elements.as_mut_ptr(),
            #[cfg(debug_assertions)]
            bounds: bounds(elements.as_ptr_range()),
        }
    }

    /// To the first one of `elements`, which have to be written before they are read.
    #[inline(always)]
    pub fn to_uninit(elements: &mut [MaybeUninit<T>]) -> Self {
        Self {
            raw: elements.as_mut_ptr().cast(),
            #[cfg(debug_assertions)]
            bounds: {
                let (start, end) = bounds(elements.as_ptr_range());
                (start.cast(), end.cast())
            },
        }
    }

    /// To the first one of `len` elements.
    #[inline(always)]
    pub fn to_raw(start: *mut T, len: usize) -> Self {
        let _ = len;
        Self {
            raw: start,
            #[cfg(debug_assertions)]
            bounds: (start, start.wrapping_add(len)),
        }
    }
}

#[cfg(debug_assertions)]
fn bounds<T>(range: Range<*const T>) -> (*const T, *const T) {
    (range.start, range.end)
}

/// Not inlined, for every access of every kernel would have its message.
#[cfg(debug_assertions)]
#[cold]
#[inline(never)]
fn beyond(count: usize, at: *const (), start: *const (), end: *const ()) -> ! {
    panic!("{count} elements at {at:?} of {start:?} .. {end:?}")
}

impl<P: Raw> Pointer<P> {
    /// To the element so many further on. It need not be there, as long as nobody reaches for it.
    #[inline(always)]
    pub fn offset(self, elements: isize) -> Self {
        Self {
            raw: self.raw.offset(elements),
            #[cfg(debug_assertions)]
            bounds: self.bounds,
        }
    }

    /// As [`offset`](Self::offset).
    #[inline(always)]
    pub fn add(self, elements: usize) -> Self {
        self.offset(elements as isize)
    }

    /// The same, which reaches `count` elements. They must be there, which is not checked once more.
    #[cfg(debug_assertions)]
    #[inline(always)]
    pub fn limit(self, count: usize) -> Self {
        let first = self.address();
        Self { bounds: (first, first.wrapping_add(count)), ..self }
    }

    /// The pointer itself, from which on `count` elements will be accessed.
    #[inline(always)]
    pub fn reach(self, count: usize) -> P {
        #[cfg(debug_assertions)]
        {
            let ((start, end), at) = (self.bounds, self.raw.address());
            let to_end = |from: *const P::Element| (end as usize).wrapping_sub(from as usize);
            // a pointer before the start, or beyond the end, has more left than there is
            let left = to_end(at);
            if left > to_end(start) || left < count.saturating_mul(size_of::<P::Element>()) {
                beyond(count, at.cast(), start.cast(), end.cast());
            }
        }
        let _ = count;
        self.raw
    }

    /// Where it points: to be fetched, not to be accessed.
    #[inline(always)]
    pub fn address(self) -> *const P::Element {
        self.raw.address()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::Pointer;

    #[test]
    fn what_lies_within_is_reached() {
        let mut values = [1, 2, 3, 4];
        // SAFETY: within the array.
        assert_eq!(unsafe { *Pointer::to(&values).add(3).offset(-1).reach(2) }, 3);
        Pointer::to(&values).add(4).reach(0);
        Pointer::to_mut(&mut values[1..]).offset(-1).add(1).reach(3);
        Pointer::to(&values).add(1).limit(2).add(1).reach(1);
    }

    #[test]
    fn nothing_else_is() {
        let mut values = [1, 2, 3, 4];
        let reach = |at: isize, count: usize| {
            let pointer = Pointer::to(&values[1..3]).offset(at);
            std::panic::catch_unwind(|| pointer.reach(count)).is_ok()
        };
        assert!(reach(0, 2) && !reach(0, 3) && !reach(1, 2) && !reach(2, 1) && !reach(-1, 1) && !reach(3, 0));
        let pointer = Pointer::to_mut(&mut values[..2]).add(1);
        assert!(std::panic::catch_unwind(|| pointer.reach(2)).is_err());
        let limited = Pointer::to(&values).add(1).limit(2);
        assert!(std::panic::catch_unwind(|| limited.reach(3)).is_err());
        assert!(std::panic::catch_unwind(|| limited.offset(-1).reach(1)).is_err());
    }
}
