//! Timing of several contenders in turns.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Long enough for the threads of candle's own pool, which spin for a while after their work, to fall asleep.
const SETTLE: Duration = Duration::from_millis(2);

/// How the seconds of a call are told.
pub trait Clock {
    /// Seconds that one call of `run` takes; `run` gets the number of the call, to rotate its data by.
    fn time(&self, run: &mut dyn FnMut(usize) -> Result<()>, round: usize) -> Result<f64>;
}

/// For work that is done when the call returns.
pub struct WallClock;

impl Clock for WallClock {
    fn time(&self, run: &mut dyn FnMut(usize) -> Result<()>, round: usize) -> Result<f64> {
        std::thread::sleep(SETTLE);
        let start = Instant::now();
        run(round)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// What is measured: a call, allocation and release of its outputs included.
pub type Contender<'a> = Box<dyn FnMut(usize) -> Result<()> + 'a>;

/// The times of a contender over all rounds, in seconds and in order of size.
pub struct Times(Vec<f64>);

impl Times {
    fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }

    fn quantile(&self, q: f64) -> f64 {
        let position = q * (self.0.len() - 1) as f64;
        let (low, high) = (self.0[position.floor() as usize], self.0[position.ceil() as usize]);
        low + (high - low) * position.fract()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// Half of the range of the middle half, as a share of the median.
    pub fn noise(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / 2. / self.median()
    }
}

/// Times all contenders in each round, so that what disturbs the machine disturbs them alike.
///
/// Every round begins with another one: none always runs after the same neighbour. Two rounds go before, untimed.
pub fn interleaved(clock: &dyn Clock, rounds: usize, mut contenders: Vec<Contender>) -> Result<Vec<Times>> {
    let n = contenders.len();
    let mut seconds = vec![Vec::with_capacity(rounds); n];
    for round in 0..rounds + 2 {
        for k in 0..n {
            let who = (round + k) % n;
            let time = clock.time(&mut contenders[who], round)?;
            if round >= 2 {
                seconds[who].push(time);
            }
        }
    }
    Ok(seconds.into_iter().map(Times::new).collect())
}
