//! `cargo xtask test cluster`: named scenarios on a real Kubernetes, one after the other, on one cluster.
//!
//! Every wait polls, with a limit that a busy machine keeps. Denials are believed only where an agent names the policy: a
//! network that is broken is no policy.

mod boutique;
mod connectivity;
mod first;
mod policies;
mod probes;
mod reach;
mod roll;
mod table;
pub(crate) mod town;
mod upsets;
mod waves;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use super::kubectl::Kubectl;
use super::layout::Layout;
use super::state::Cluster;
use super::tools;
use super::up::{self, Network, Wish};
use crate::test::Count;
use crate::{image, workspace};
use town::Town;

type Scenario = (&'static str, fn(&mut Town) -> Result<()>);

const SCENARIOS: &[Scenario] = &[
    ("pods_reach_each_other", reach::pods_reach_each_other),
    (
        "a_pods_first_packet_on_its_own_node_needs_no_second_try",
        first::a_pods_first_packet_on_its_own_node_needs_no_second_try,
    ),
    ("names_resolve_and_services_answer", reach::names_resolve_and_services_answer),
    (
        "connectivity_test_finds_all_well_and_leaves_nothing",
        connectivity::connectivity_test_finds_all_well_and_leaves_nothing,
    ),
    ("probes_work_under_default_deny", probes::probes_work_under_default_deny),
    (
        "policies_change_the_truth_table_on_both_nodes",
        policies::policies_change_the_truth_table_on_both_nodes,
    ),
    ("the_boutique_comes_up_and_its_policies_hold", boutique::the_boutique_comes_up_and_its_policies_hold),
    ("an_api_server_that_is_gone_changes_no_verdict", upsets::an_api_server_that_is_gone_changes_no_verdict),
    ("a_cut_cable_is_no_policy_and_heals", upsets::a_cut_cable_is_no_policy_and_heals),
    ("rolling_the_agent_loses_no_connection", roll::rolling_the_agent_loses_no_connection),
    ("a_node_that_lost_power_comes_back", upsets::a_node_that_lost_power_comes_back),
    ("a_hundred_pods_come_and_go_and_leave_nothing", waves::a_hundred_pods_come_and_go_and_leave_nothing),
];

/// Brings a cluster up, runs the scenarios whose names contain `only`, and takes it down.
pub(crate) fn run(only: Option<&str>) -> Result<Count> {
    let folder = folder();
    // Of a run that was killed.
    if let Some(old) = Cluster::load(&folder)? {
        old.take_down()?;
    }
    let wish = Wish {
        folder,
        nodes: 2,
        layout: Layout::Kind,
        network: Network::Weir,
        profile: image::Profile::Debug,
        images: Vec::new(),
    };
    let mut count = Count::default();
    let (cluster, took) = match up::up(&wish) {
        Ok(up) => up,
        Err(error) => {
            println!("test a_cluster_comes_up ... FAILED\n{error:#}\n");
            count.failed += 1;
            return Ok(count);
        }
    };
    println!("test a_cluster_comes_up ... ok, {:.1} s", took.as_secs_f64());
    count.passed += 1;
    let kubectl = Kubectl::new(&cluster, &tools::tools()?.bin)?;
    let mut town = Town { cluster, kubectl };
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| only.is_none_or(|only| name.contains(only))) {
        let begun = Instant::now();
        let outcome = scenario(&mut town);
        let took = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                count.passed += 1;
                println!("test {name} ... ok, {took:.1} s");
            }
            Err(error) => {
                count.failed += 1;
                println!("test {name} ... FAILED after {took:.1} s\n{error:#}\n");
            }
        }
    }
    town.cluster.take_down().context("take the cluster down")?;
    Ok(count)
}

fn folder() -> PathBuf {
    workspace::target().join("cluster-test")
}
