//! `cargo xtask test cluster`: named scenarios on a real Kubernetes, one after the other, on one cluster.
//!
//! Every wait polls, with a limit that a busy machine keeps. Denials are believed only where an agent names the policy: a
//! network that is broken is no policy.

mod boutique;
mod connectivity;
mod first;
mod notices;
mod policies;
mod probes;
mod reach;
mod roll;
mod table;
pub(crate) mod town;
mod uninstall;
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

/// What the cluster tier may be told.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Of the cluster tier all scenarios on a cluster of this layout [default: all on kind's, and a few on k3s's]
    #[arg(long)]
    layout: Option<Layout>,
    /// How often the cluster tier replaces the agent under load
    #[arg(long, value_name = "N", default_value_t = 3)]
    rolls: usize,
}

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
    (
        "what_a_person_must_act_on_is_an_event_and_in_the_status",
        notices::what_a_person_must_act_on_is_an_event_and_in_the_status,
    ),
    // The last one: pods from before it have no network.
    ("uninstall_leaves_nothing_and_weir_comes_back", uninstall::uninstall_leaves_nothing_and_weir_comes_back),
];

/// What depends on where a distribution has its folders and which addresses it gives.
const OF_EACH_LAYOUT: &[&str] = &[
    "pods_reach_each_other",
    "names_resolve_and_services_answer",
    "policies_change_the_truth_table_on_both_nodes",
    "uninstall_leaves_nothing_and_weir_comes_back",
];

/// Runs the scenarios whose names contain `only`.
pub(crate) fn run(only: Option<&str>, options: &Options) -> Result<Count> {
    let picked: Vec<&Scenario> =
        SCENARIOS.iter().filter(|(name, _)| only.is_none_or(|only| name.contains(only))).collect();
    if let Some(layout) = options.layout {
        return on_a_cluster(layout, &picked, options);
    }
    let mut count = on_a_cluster(Layout::Kind, &picked, options)?;
    let few: Vec<&Scenario> = picked.into_iter().filter(|(name, _)| OF_EACH_LAYOUT.contains(name)).collect();
    if !few.is_empty() {
        count.add(on_a_cluster(Layout::K3s, &few, options)?);
    }
    Ok(count)
}

/// Brings a cluster up, runs `scenarios`, and takes it down.
fn on_a_cluster(layout: Layout, scenarios: &[&Scenario], options: &Options) -> Result<Count> {
    let folder = folder();
    // Of a run that was killed.
    if let Some(old) = Cluster::load(&folder)? {
        old.take_down()?;
    }
    let wish = Wish {
        folder,
        nodes: 2,
        layout,
        network: Network::Weir,
        profile: image::Profile::Debug,
        images: Vec::new(),
    };
    let mut count = Count::default();
    let layout = layout.name();
    let (cluster, took) = match up::up(&wish) {
        Ok(up) => up,
        Err(error) => {
            println!("test {layout}::a_cluster_comes_up ... FAILED\n{error:#}\n");
            count.failed += 1;
            return Ok(count);
        }
    };
    println!("test {layout}::a_cluster_comes_up ... ok, {:.1} s", took.as_secs_f64());
    count.passed += 1;
    let kubectl = Kubectl::new(&cluster, &tools::tools()?.bin)?;
    let mut town = Town { cluster, kubectl, rolls: options.rolls };
    for (name, scenario) in scenarios {
        let begun = Instant::now();
        let outcome = scenario(&mut town);
        let took = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                count.passed += 1;
                println!("test {layout}::{name} ... ok, {took:.1} s");
            }
            Err(error) => {
                count.failed += 1;
                println!("test {layout}::{name} ... FAILED after {took:.1} s\n{error:#}\n");
            }
        }
    }
    town.cluster.take_down().context("take the cluster down")?;
    Ok(count)
}

fn folder() -> PathBuf {
    workspace::target().join("cluster-test")
}
