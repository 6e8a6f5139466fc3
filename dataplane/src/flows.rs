//! Flow events out of the ring buffer, in batches.
//!
//! The programs wake the reader with the first event after a pause of 10 ms. From then on it drains by itself, until it has
//! found nothing for longer than that: events that come in a stream cost no wake-ups.

use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use common::flow::FlowEvent;
use common::maps as names;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::pin::Pins;

/// Longer than the pause after which the programs wake the reader (`ebpf/src/report.rs`): nothing comes between the last
/// drain and the pause that a wake-up ends.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

pub struct FlowReader {
    ring: AsyncFd<RingBuf<MapData>>,
    /// The last batch was not empty: more may have come without a wake-up.
    drain_again: bool,
}

impl FlowReader {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let data = MapData::from_pin(pins.map(names::FLOWS)).map_err(Error::map("open", names::FLOWS))?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(Error::map("open", names::FLOWS))?;
        // SAFETY: the ring owns its descriptor and keeps it open, and the same one, for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::Flows(error.into()))?;
        Ok(Self { ring, drain_again: false })
    }

    /// The next batch, never empty. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<FlowEvent>, Error> {
        loop {
            if self.drain_again {
                tokio::time::sleep(DRAIN_INTERVAL).await;
                self.drain_again = false;
            } else {
                let mut guard = self.ring.readable().await.map_err(Error::Flows)?;
                guard.clear_ready();
                // A wake-up can find nothing: the first event is still being written on another CPU, and may then be
                // submitted without one of its own.
                self.drain_again = true;
            }
            let batch = drain(self.ring.get_mut());
            if !batch.is_empty() {
                self.drain_again = true;
                return Ok(batch);
            }
        }
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<FlowEvent> {
    let mut batch = Vec::new();
    while let Some(item) = ring.next() {
        if item.len() == size_of::<FlowEvent>() {
            // SAFETY: the programs submit exactly this type; every bit pattern of it is a value (`aya::Pod`).
            batch.push(unsafe { item.as_ptr().cast::<FlowEvent>().read_unaligned() });
        }
    }
    batch
}
