//! Limits of bandwidth: a token bucket as the queue of a link.

use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::error::Result;
use crate::handle::{Handle, about};

/// What a link may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bits_per_second: u64,
    /// What may go at once after a pause; absent: what a tenth of a second brings.
    pub burst_bytes: Option<u32>,
}

/// The kernel cuts packets that stand for several at this, and drops others that are longer.
const LEAST_BURST: u64 = 1 << 16;
const PARAMETERS: u16 = 1;
const RATE_64: u16 = 4;
const BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: what packets cost follows from their length.
const ETHERNET: u8 = 1;

impl Handle {
    /// Limits what the link sends, in the place of an earlier limit.
    pub async fn limit(&self, ifindex: u32, limit: &Limit) -> Result<()> {
        let mut message = TcMessage::with_index(ifindex as i32);
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(limit.options())];
        let about = about!("limit", "link {ifindex} to {} bit/s", limit.bits_per_second);
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.change(about, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// The kinds of queues that the link has.
    pub async fn queues(&self, ifindex: u32) -> Result<Vec<String>> {
        let message = TcMessage::with_index(ifindex as i32);
        let about = about!("list the queues of link", "{ifindex}");
        let answers = self.dump(about, RouteNetlinkMessage::GetQueueDiscipline(message)).await?;
        let kinds = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewQueueDiscipline(queue) if queue.header.index == ifindex as i32 => {
                queue.attributes.into_iter().find_map(|attribute| match attribute {
                    TcAttribute::Kind(kind) => Some(kind),
                    _ => None,
                })
            }
            _ => None,
        });
        Ok(kinds.collect())
    }
}

impl Limit {
    /// `TCA_TBF_*`.
    fn options(&self) -> Vec<TcOption> {
        let rate = (self.bits_per_second / 8).max(1);
        let tenth = rate / 10;
        let burst =
            u64::from(self.burst_bytes.unwrap_or(0)).max(if self.burst_bytes.is_none() { tenth } else { 0 });
        let burst = burst.max(LEAST_BURST).min(u32::MAX.into());
        // Waits a tenth of a second at most.
        let queue = (burst + tenth).min(u32::MAX.into());
        let mut parameters = Vec::new();
        for rate in [rate.min(u32::MAX.into()) as u32, 0] {
            // `struct tc_ratespec`: cell_log, linklayer, overhead, cell_align, mpu, rate. The second is the peak rate: none.
            parameters.extend([0, ETHERNET, 0, 0, 0, 0, 0, 0]);
            parameters.extend(rate.to_ne_bytes());
        }
        // `limit`, then `buffer` and `mtu`, for which `BURST` stands.
        parameters.extend((queue as u32).to_ne_bytes());
        parameters.extend([0; 8]);
        let option = |kind, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
        vec![
            option(PARAMETERS, parameters),
            option(RATE_64, rate.to_ne_bytes().to_vec()),
            option(BURST, (burst as u32).to_ne_bytes().to_vec()),
        ]
    }
}
