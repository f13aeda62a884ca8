//! Memory of a thread for rows that it reads and writes at every step.

use std::ops::{Deref, DerefMut};

use super::simd::LINE;

/// Elements of which the first one begins a cache line. Elsewhere most vectors would lie across two lines, and each
/// access to one of them would be two.
#[derive(Default)]
pub(crate) struct Lines<A> {
    memory: Vec<A>,
    first: usize,
    len: usize,
}

impl<A: Copy + Default> Lines<A> {
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes them so many; those that come new are zero.
    pub fn resize(&mut self, len: usize) {
        if len > self.memory.len() - self.first {
            let line = LINE / size_of::<A>();
            let mut memory = vec![A::default(); len + line];
            let first = memory.as_ptr().align_offset(LINE).min(line);
            memory[first..first + self.len].copy_from_slice(self);
            (self.memory, self.first) = (memory, first);
        } else if len > self.len {
            self.memory[self.first + self.len..self.first + len].fill(A::default());
        }
        self.len = len;
    }

    pub fn extend_from_slice(&mut self, elements: &[A]) {
        let start = self.len;
        self.resize(start + elements.len());
        self[start..].copy_from_slice(elements);
    }
}

impl<A> Deref for Lines<A> {
    type Target = [A];

    fn deref(&self) -> &[A] {
        &self.memory[self.first..self.first + self.len]
    }
}

impl<A> DerefMut for Lines<A> {
    fn deref_mut(&mut self) -> &mut [A] {
        &mut self.memory[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_begin_a_line_and_stay_as_they_grow() {
        let mut lines = Lines::<f32>::default();
        for len in [0, 1, 15, 16, 17, 1000, 3, 0, 5000] {
            let before = lines.to_vec();
            lines.resize(len);
            let kept = len.min(before.len());
            assert_eq!(lines[..kept], before[..kept], "of {len}");
            assert!(lines[kept..].iter().all(|element| *element == 0.), "of {len}");
            assert_eq!(lines.len(), len);
            assert!(len == 0 || lines.as_ptr().addr().is_multiple_of(LINE), "of {len}");
            lines.fill(len as f32);
        }
        lines.clear();
        lines.extend_from_slice(&[1., 2.]);
        lines.extend_from_slice(&[3.]);
        assert_eq!(lines[..], [1., 2., 3.]);
    }
}
