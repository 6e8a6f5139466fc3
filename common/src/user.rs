//! Lets aya read and write the ABI types in maps.

use crate::config::{Config, Load};
use crate::conntrack::{ClosedRow, CtEntry, CtKey};
use crate::endpoint::EndpointRow;
use crate::flow::FlowEvent;
use crate::fragment::{FragmentKey, FragmentRow};
use crate::id::{BackendSetId, ClassId, RuleId, RuleSetId};
use crate::net::{Addr, Be16};
use crate::overlay::{NodeRow, TunnelRow};
use crate::rules::{RuleKey, RuleRow};
use crate::service::{BackendKey, BackendRow, ServiceKey, ServiceRow, SocketKey};
use crate::verdict::counter::Cell;

macro_rules! pod {
    ($($name:ty,)*) => { $(
        // SAFETY: `repr(C)` or `repr(transparent)` over integers with every byte named (sizes are asserted where the
        // type is defined), so any bit pattern is a value and no byte is padding.
        unsafe impl aya::Pod for $name {}
    )* };
}

pod! {
    Addr, BackendKey, BackendRow, BackendSetId, Be16, Cell, ClassId, ClosedRow, Config, CtEntry, CtKey, EndpointRow, FlowEvent, Load,
    FragmentKey, FragmentRow, NodeRow, RuleId, RuleKey, RuleRow, RuleSetId, ServiceKey, ServiceRow, SocketKey,
    TunnelRow,
}
