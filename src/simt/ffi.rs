//! The emulation in `tests/simt`, through the functions of `simt.h`.

use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::sync::{Mutex, PoisonError};

use candle_core::{bail, Error, Result};

use super::Schedule;
use crate::cuda::params::Params;
use crate::cuda::tile::{Feeding, Tile};

/// `quick_ssm_simt_kernel`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub threads: u32,
    pub channels: u32,
    pub length: u32,
    pub steps: u32,
    pub vector: u32,
    pub stages: u32,
    pub feeding: u32,
    pub access: u32,
    pub shared_bytes: u32,
    pub params_bytes: u32,
}

impl Description {
    pub fn tile(self) -> Tile {
        let Self { vector, steps, stages, .. } = self;
        let feeding = [Feeding::Ahead, Feeding::InTurn, Feeding::Behind][self.feeding as usize];
        Tile { vector, steps, lanes: self.channels / vector, segments: self.length / steps, stages, feeding }
    }
}

extern "C" {
    fn quick_ssm_simt_describe(variant: u32, kernel: *const c_char, out: *mut Description) -> c_int;
    fn quick_ssm_simt_launch(
        variant: u32,
        kernel: *const c_char,
        params: *const c_void,
        grid: u32,
        block: u32,
        resident_blocks: u32,
        seed: u64,
        skipped_barrier: *const c_char,
        message: *mut c_char,
        message_bytes: usize,
    ) -> c_int;
    #[cfg(test)]
    fn quick_ssm_simt_plan(
        chunks: u32,
        channel_tiles: u32,
        batch: u32,
        tile_channels: u32,
        acc_bytes: u32,
        plan: *mut [u32; 6],
    ) -> u64;
    fn quick_ssm_simt_self_test(schedules: u32) -> c_int;
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Word([u64; 2]);

/// The memory in which blocks exchange carries, kept from launch to launch as on a device.
///
/// The emulation is one machine: who holds this lock has it for himself.
static WORKSPACE: Mutex<Vec<Word>> = Mutex::new(Vec::new());

/// The kernel of this name.
pub(super) fn describe(tiles: u32, name: &str) -> Result<Option<Description>> {
    let name = CString::new(name).map_err(Error::wrap)?;
    let mut description = Description::default();
    // SAFETY: `name` ends with a zero, and `out` is a struct of the layout that is written.
    let status = unsafe { quick_ssm_simt_describe(tiles, name.as_ptr(), &mut description) };
    Ok((status == 0).then_some(description))
}

/// The look-back plan that the kernels' own source makes, and its workspace.
#[cfg(test)]
pub(super) fn plan(chunks: u32, channel_tiles: u32, batch: u32, tile_channels: u32, acc_bytes: u32) -> ([u32; 6], u64) {
    let mut plan = [0; 6];
    // SAFETY: six words are written.
    let bytes = unsafe { quick_ssm_simt_plan(chunks, channel_tiles, batch, tile_channels, acc_bytes, &mut plan) };
    (plan, bytes)
}

pub(super) fn self_test(schedules: u32) -> bool {
    let _alone = WORKSPACE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: it uses memory of its own, and nobody else the machine.
    unsafe { quick_ssm_simt_self_test(schedules) == 0 }
}

/// A launch of one kernel.
pub(super) struct Launch<'a> {
    pub tiles: u32,
    pub entry: &'a str,
    pub threads: u32,
    pub workspace_bytes: u64,
    pub schedule: Schedule,
    pub skipped_barrier: Option<&'static CStr>,
}

impl Launch<'_> {
    /// Runs it, in the workspace of all launches.
    ///
    /// # Safety
    /// `params` are right for the kernel, and their addresses those of memory that it can read or write until then.
    pub unsafe fn run(&self, mut params: Params) -> Result<()> {
        match describe(self.tiles, self.entry)? {
            Some(kernel) if kernel.params_bytes as usize == size_of::<Params>() => {}
            kernel => bail!("scan: the parameters do not fit {}, which is {kernel:?}", self.entry),
        }
        let entry = CString::new(self.entry).map_err(Error::wrap)?;
        let mut workspace = WORKSPACE.lock().unwrap_or_else(PoisonError::into_inner);
        let words = self.workspace_bytes.div_ceil(size_of::<Word>() as u64) as usize;
        if workspace.len() < words {
            *workspace = vec![Word([0; 2]); words];
        }
        params.workspace = workspace.as_mut_ptr() as u64;
        let mut message = [0u8; 600];
        let Schedule { seed, grid, resident, .. } = self.schedule;
        // SAFETY: strings end with a zero, `params` is of the size that the kernel reads, the workspace as large as it
        // must be, `message` as large as is said; the caller answers for the rest. Nobody else uses the machine.
        let status = unsafe {
            quick_ssm_simt_launch(
                self.tiles,
                entry.as_ptr(),
                (&raw const params).cast(),
                grid,
                self.threads,
                resident,
                seed,
                self.skipped_barrier.map_or(std::ptr::null(), CStr::as_ptr),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if status == 0 && self.skipped_barrier.is_none() {
            return Ok(());
        }
        // a launch that went wrong leaves anything there
        workspace.clear();
        match CStr::from_bytes_until_nul(&message) {
            Ok(message) if status != 0 => {
                bail!("scan: {} under {:?}", message.to_string_lossy(), self.schedule)
            }
            _ => Ok(()),
        }
    }
}
