//! What a pod may take in and send: what the runtime asks for (capability `bandwidth`), in bits.

use netlink::Limit;
use serde_json::Value;

use crate::config::wrong;
use crate::spec::Failure;

/// Limits in the pod's view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) ingress: Option<Limit>,
    pub(crate) egress: Option<Limit>,
}

/// Runtimes that know no burst write the largest number of 31 or 32 bits.
const NO_BURST: u64 = i32::MAX as u64;

impl Bandwidth {
    pub(crate) fn read(value: &Value) -> Result<Self, Failure> {
        match value {
            Value::Null => Ok(Self::default()),
            Value::Object(_) => Ok(Self {
                ingress: limit(value, "ingressRate", "ingressBurst")?,
                egress: limit(value, "egressRate", "egressBurst")?,
            }),
            other => Err(wrong("runtimeConfig.bandwidth", &format!("{other}, not an object"))),
        }
    }
}

fn limit(value: &Value, rate: &str, burst: &str) -> Result<Option<Limit>, Failure> {
    let number = |field: &str| match &value[field] {
        Value::Null => Ok(0),
        number => number.as_u64().ok_or_else(|| {
            wrong(&format!("runtimeConfig.bandwidth.{field}"), &format!("{number}, not a number of bits"))
        }),
    };
    let (bits_per_second, burst_bits) = (number(rate)?, number(burst)?);
    if bits_per_second == 0 {
        if burst_bits != 0 && burst_bits < NO_BURST {
            let problem = format!("{burst_bits}, and {rate} missing: a burst is of a rate");
            return Err(wrong(&format!("runtimeConfig.bandwidth.{burst}"), &problem));
        }
        return Ok(None);
    }
    if bits_per_second < 1000 {
        let problem = format!("{bits_per_second}, not 1000 bits per second or more");
        return Err(wrong(&format!("runtimeConfig.bandwidth.{rate}"), &problem));
    }
    let burst_bytes = (burst_bits != 0 && burst_bits < NO_BURST).then_some((burst_bits / 8) as u32);
    Ok(Some(Limit { bits_per_second, burst_bytes }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runtimes_write_is_read() {
        let limit = |bits_per_second, burst_bytes| Some(Limit { bits_per_second, burst_bytes });
        for (value, ingress, egress) in [
            (Value::Null, None, None),
            (json!({}), None, None),
            (json!({ "ingressRate": 0, "ingressBurst": 0 }), None, None),
            (
                json!({ "ingressRate": 8_000_000, "ingressBurst": 4_294_967_295_u32 }),
                limit(8_000_000, None),
                None,
            ),
            (json!({ "egressRate": 1000, "egressBurst": 800_000 }), None, limit(1000, Some(100_000))),
        ] {
            assert_eq!(Bandwidth::read(&value).unwrap(), Bandwidth { ingress, egress }, "{value}");
        }
    }

    #[test]
    fn what_cannot_be_is_named_with_its_field() {
        for (value, found) in [
            (json!([]), "runtimeConfig.bandwidth is [], not an object"),
            (json!({ "ingressRate": "8M" }), "bandwidth.ingressRate is \"8M\", not a number of bits"),
            (json!({ "egressRate": -1 }), "bandwidth.egressRate is -1, not a number"),
            (json!({ "egressRate": 999 }), "bandwidth.egressRate is 999, not 1000 bits per second or more"),
            (json!({ "egressBurst": 800 }), "bandwidth.egressBurst is 800, and egressRate missing"),
        ] {
            let failure = Bandwidth::read(&value).unwrap_err();
            assert_eq!(failure.code, 7);
            assert!(failure.message.contains(found), "{}", failure.message);
        }
    }
}
