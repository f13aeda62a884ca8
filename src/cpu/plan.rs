//! How the work is cut: into sequences, groups of columns, tiles of time and chunks.
//!
//! Groups of columns are there for the threads, and change no bit of a result. Tiles of time do: the state at the end of
//! a tile is `A h + H`, with `A` the product of its gates and `H` its state from zero, where the plain recurrence rounds
//! at every step. So the shape of a sequence alone decides whether and where time is tiled; never the batch around
//! it, nor the number of threads.

use std::ops::Range;

use candle_core::Result;

use super::buffer::memory;
use super::view::{Place, Run};
use crate::problem::{Problem, Sequences};

/// Elements of a tile or chunk: what a core reads in one go and finds in its second-level cache the next time.
const TILE: usize = 1 << 15;
/// Time is tiled in sequences of at least so many steps and elements, and at most so many channels.
const TILED: (usize, usize, usize) = (1 << 13, 1 << 20, 1 << 10);
/// Each step waits for the one before it, so that rows of so few channels, a vector, leave a core idle. More of them than one
/// are taken at a time where that can be.
pub(crate) const NARROW: usize = 16;
/// Strands of a whole tile of narrow rows. More of them would meet in one set of a cache.
pub(crate) const STRANDS: usize = 2;
/// Narrower groups of columns lose more to memory than another core gains.
const GROUP: usize = 128;
/// Narrower ones lose more to memory than is gained where their tiles are gone through.
const WIDE_GROUP: usize = 512;

/// A sequence: `len` steps of one batch element, from `start` on.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub index: usize,
    pub batch: usize,
    start: usize,
    len: usize,
    reverse: bool,
    /// The index of its first saved state.
    first_chunk: usize,
}

impl Sequence {
    /// Some columns of some steps, in the order of the steps.
    pub fn place(&self, steps: &Range<usize>, columns: &Range<usize>) -> Place {
        let (start, end) = match self.reverse {
            false => (self.start + steps.start, self.start + steps.end),
            true => (self.start + self.len - steps.end, self.start + self.len - steps.start),
        };
        Place { batch: self.batch, times: Run { start, end, reverse: self.reverse }, columns: columns.clone() }
    }
}

/// Some steps and columns of a sequence, which one thread computes.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub sequence: usize,
    pub columns: Range<usize>,
    pub steps: Range<usize>,
    /// Which tile of time it begins with: the state before it is the one after its predecessor.
    pub tile: usize,
    /// Whether the sequence ends with it.
    pub last: bool,
    /// Steps of the tiles that it goes through, where it has all of its columns.
    pub through: Option<usize>,
}

impl Job {
    /// The tile around some steps, where there are several and it is not the last one.
    pub fn tile_around(&self, steps: &Range<usize>) -> Option<Range<usize>> {
        self.any_tile_around(steps).filter(|tile| tile.end < self.steps.end)
    }

    /// The same against time: where there are several and it is not the first one.
    pub fn tile_around_back(&self, steps: &Range<usize>) -> Option<Range<usize>> {
        self.any_tile_around(steps).filter(|tile| tile.start > self.steps.start)
    }

    fn any_tile_around(&self, steps: &Range<usize>) -> Option<Range<usize>> {
        let len = self.through?;
        let start = steps.start / len * len;
        Some(start..self.steps.end.min(start + len))
    }

    /// The steps that lie in this job as others do in `all`, if there are as many.
    pub fn part_like(&self, all: &Range<usize>, part: &Range<usize>) -> Option<Range<usize>> {
        let steps = self.steps.start + (part.start - all.start)..self.steps.start + (part.end - all.start);
        (steps.end <= self.steps.end).then_some(steps)
    }
}

/// The work of a scan.
#[derive(Debug)]
pub(crate) struct Plan {
    pub sequences: Vec<Sequence>,
    pub jobs: Vec<Job>,
    /// Steps between saved states.
    pub chunk_len: usize,
    /// Saved states of all sequences.
    pub chunks: usize,
    /// The most tiles that a sequence has.
    pub tiles: usize,
    /// Equal parts of a whole tile, the states of which are computed side by side.
    pub strands: usize,
    pub threads: usize,
}

/// Steps of a tile.
fn tile_len(channels: usize) -> usize {
    (TILE / channels.max(1)).next_power_of_two()
}

fn strands(channels: usize) -> usize {
    if channels <= NARROW {
        STRANDS
    } else {
        1
    }
}

/// Whether time is tiled in a sequence of this shape.
fn is_tiled(len: usize, channels: usize) -> bool {
    let (steps, elements, most_channels) = TILED;
    len >= steps && len * channels >= elements && channels <= most_channels
}

/// Steps between saved states: a strand of a tile, or a part of one, where there are such.
fn chunk_len(p: &Problem) -> usize {
    let strand = tile_len(p.channels) / strands(p.channels);
    match p.chunk_len {
        None if p.channels <= TILED.2 => strand,
        None => (TILE / p.channels).max(16),
        Some(steps) if p.channels > TILED.2 => steps,
        Some(steps) => strand.min(1 << steps.ilog2()),
    }
}

impl Plan {
    /// That of a scan which has steps.
    pub fn new(p: &Problem) -> Result<Self> {
        Self::with_jobs(p, false)
    }

    /// That of a pass which computes something of every step, with threads that go through all tiles of a sequence where there are
    /// enough sequences for all of them, or groups of columns.
    pub fn going_through(p: &Problem) -> Result<Self> {
        Self::with_jobs(p, true)
    }

    fn with_jobs(p: &Problem, through: bool) -> Result<Self> {
        let chunk_len = chunk_len(p);
        let mut sequences: Vec<Sequence> = memory(p.num_sequences())?;
        let mut chunks = 0;
        for index in 0..p.num_sequences() {
            let (batch, start, len) = match &p.sequences {
                Sequences::Dense => (index, 0, p.len),
                Sequences::Packed(offsets) => (0, offsets[index], offsets[index + 1] - offsets[index]),
            };
            sequences.push(Sequence { index, batch, start, len, reverse: p.reverse, first_chunk: chunks });
            chunks += len.div_ceil(chunk_len);
        }
        let elements: usize = sequences.iter().map(|s| s.len * p.channels).sum();
        let threads = match elements / TILE {
            // as in a step of a generation, which need not ask
            0 => 1,
            most => rayon::current_num_threads().min(most + 1),
        };
        let groups = column_groups(p.channels, sequences.len(), threads);
        let wide = groups.len() == 1 && p.channels > NARROW || groups[0].len() >= WIDE_GROUP;
        let through = through && wide && shared_out(&sequences, groups.len(), threads);
        let mut jobs = memory(sequences.len() * groups.len())?;
        for sequence in &sequences {
            jobs.extend(jobs_of(sequence, p.channels, &groups, through));
        }
        // time-major: when a job starts, its predecessor has at least been started
        jobs.sort_by_key(|job| job.tile);
        let tiles = jobs.last().map_or(0, |job| job.tile + 1);
        Ok(Self { sequences, jobs, chunk_len, chunks, tiles, strands: strands(p.channels), threads })
    }

    /// The index of the saved state before `step`, the first of a chunk.
    pub fn chunk(&self, sequence: &Sequence, step: usize) -> usize {
        sequence.first_chunk + step / self.chunk_len
    }
}

/// The jobs of a sequence: its groups of columns, or its tiles of time where it is narrow and long and these are not gone
/// through.
fn jobs_of(sequence: &Sequence, channels: usize, groups: &[Range<usize>], through: bool) -> Vec<Job> {
    let (index, len) = (sequence.index, sequence.len);
    let tile_len = is_tiled(len, channels).then(|| tile_len(channels));
    match tile_len.filter(|_| !through) {
        None => {
            let job = |columns: &Range<usize>| Job {
                sequence: index,
                columns: columns.clone(),
                steps: 0..len,
                tile: 0,
                last: true,
                through: tile_len,
            };
            groups.iter().map(job).collect()
        }
        Some(tile_len) => {
            let tiles = len.div_ceil(tile_len);
            let job = |tile: usize| {
                let steps = tile * tile_len..len.min((tile + 1) * tile_len);
                Job { sequence: index, columns: 0..channels, steps, tile, last: tile + 1 == tiles, through: None }
            };
            (0..tiles).map(job).collect()
        }
    }
}

/// Whether all threads get about as much to do if each takes whole sequences, or groups of their columns.
fn shared_out(sequences: &[Sequence], groups: usize, threads: usize) -> bool {
    let steps: usize = sequences.iter().map(|s| s.len).sum();
    let longest = sequences.iter().map(|s| s.len).max().unwrap_or(0);
    let equal = longest * sequences.len() == steps && (groups * sequences.len()).is_multiple_of(threads);
    // otherwise those that end last are to be a small part of all
    threads == 1 || equal || 8 * threads * longest <= groups * steps
}

/// Groups of columns, so that all threads get the same share of the sequences.
fn column_groups(channels: usize, sequences: usize, threads: usize) -> Vec<Range<usize>> {
    let fair = threads / gcd(threads, sequences.max(1));
    let most = (channels / GROUP).max(1);
    let groups = if sequences >= 4 * threads { 1 } else { fair.min(most) };
    // cache lines stay whole
    let width = channels.div_ceil(groups).next_multiple_of(32);
    let groups = channels.div_ceil(width.max(1)).max(1);
    (0..groups).map(|g| g * width..((g + 1) * width).min(channels)).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}
