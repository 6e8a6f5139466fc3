//! Whether the programs are where they must be, by the kernel's own account: somebody may have taken one off.
//!
//! Of tcx and cgroup links the kernel tells nobody; asking costs a microsecond each. Of clsact filters it does tell, and
//! cannot be asked (aya 0.14): [`filters`] is for when it has told.

use std::fs::File;
use std::os::fd::AsRawFd;

use aya::programs::ProgramError;

use crate::Dataplane;
use crate::attach::{self, ENDPOINT_PROGRAMS};
use crate::error::Error;
use crate::load::CGROUP_PROGRAMS;

// `enum bpf_attach_type` of <linux/bpf.h>.
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

fn cgroup_hook(program: &str) -> u32 {
    match program {
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        "getpeername4" => 29,
        _ => 30,
    }
}

/// Attaches again what is missing on these endpoints, on the other devices and on the cgroup, and says what it was.
pub(crate) fn mend(dataplane: &mut Dataplane, endpoints: &[u32]) -> Result<Vec<String>, Error> {
    if dataplane.previous.is_some() {
        // Not ours to look after yet.
        return Ok(Vec::new());
    }
    let of_endpoints =
        endpoints.iter().flat_map(|ifindex| ENDPOINT_PROGRAMS.map(|program| (program, *ifindex)));
    let all: Vec<_> = of_endpoints.chain(dataplane.standing.iter().copied()).collect();
    let mut mended = Vec::new();
    for (program, ifindex) in all {
        if attach::may_be_on_clsact(dataplane, program, ifindex) || has(dataplane, program, ifindex)? {
            continue;
        }
        attach::attach(dataplane, program, ifindex)?;
        mended.push(format!("program {program} of {}", attach::interface_name(ifindex)?));
    }
    if let Some(cgroup) = dataplane.cgroup.clone()
        && let Ok(folder) = File::open(&cgroup)
    {
        let target = u32::try_from(folder.as_raw_fd()).unwrap_or(u32::MAX);
        for program in CGROUP_PROGRAMS {
            let id = dataplane.ids.get(program).copied().unwrap_or_default();
            let there = crate::look::programs(target, cgroup_hook(program));
            if there.is_ok_and(|there| !there.contains(&id)) {
                attach::cgroup_program(dataplane, program, &folder, &cgroup)?;
                mended.push(format!("program {program} of cgroup {}", cgroup.display()));
            }
        }
    }
    Ok(mended)
}

/// As [`mend`], for the clsact filters of one interface.
pub(crate) fn filters(dataplane: &mut Dataplane, ifindex: u32) -> Result<Vec<String>, Error> {
    if dataplane.previous.is_some() {
        return Ok(Vec::new());
    }
    let is_endpoint = attach::attached_endpoints(dataplane)?.contains(&ifindex);
    let endpoint = ENDPOINT_PROGRAMS.into_iter().filter(|_| is_endpoint);
    let standing =
        dataplane.standing.iter().filter(|(_, other)| *other == ifindex).map(|(program, _)| *program);
    let programs: Vec<_> = endpoint.chain(standing).collect();
    let mut mended = Vec::new();
    for program in programs {
        let Ok(interface) = attach::interface_name(ifindex) else { break };
        if attach::may_be_on_clsact(dataplane, program, ifindex)
            && !attach::attach_clsact(dataplane, program, &interface)?
        {
            mended.push(format!("program {program} of {interface}"));
        }
    }
    Ok(mended)
}

/// Whether the interface has the very program that is loaded; an interface that is gone lacks nothing.
fn has(dataplane: &Dataplane, program: &'static str, ifindex: u32) -> Result<bool, Error> {
    let id = dataplane.ids.get(program).copied().unwrap_or_default();
    let hook = if attach::is_egress(program) { BPF_TCX_EGRESS } else { BPF_TCX_INGRESS };
    match crate::look::programs(ifindex, hook) {
        Ok(there) => Ok(there.contains(&id)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
        Err(error) => {
            let source = Box::new(ProgramError::IOError(error));
            Err(Error::Attach { program, target: ifindex.to_string(), source })
        }
    }
}
