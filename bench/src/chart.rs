//! The chart: four panels, a row for each layout, a dot at the median and a bar over the middle half.

use std::fmt::Write;

use crate::layout::{Distance, Layout};
use crate::load::Kind;
use crate::report::{Report, absolute};
use crate::rounds::Cell;
use crate::targets;

/// An SVG document, light and without a font or script of its own.
pub(crate) fn draw(report: &Report) -> String {
    let rows: Vec<(Distance, Layout)> = Distance::ALL
        .into_iter()
        .flat_map(|distance| Layout::ALL.into_iter().map(move |layout| (distance, layout)))
        .filter(|(distance, layout)| {
            *layout != Layout::Raw && report.cell(*layout, *distance, Kind::RequestResponse).is_some()
        })
        .collect();
    let panel_height = 46.0 + ROW * rows.len() as f64;
    let height = 70.0 + 2.0 * (panel_height + 18.0) + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"17\" font-weight=\"bold\">What a path costs, against a raw veth pair</text>\n\
         <text x=\"20\" y=\"48\" fill=\"#666\">{}</text>\n",
        escaped(&report.conditions())
    );
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        let x = 20.0 + (index % 2) as f64 * (WIDTH - 20.0) / 2.0;
        let y = 70.0 + (index / 2) as f64 * (panel_height + 18.0);
        svg.push_str(&format!("<g transform=\"translate({x:.1} {y:.1})\">\n"));
        panel(&mut svg, report, kind, &rows).ok();
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, report: &Report, kind: Kind, rows: &[(Distance, Layout)]) -> std::fmt::Result {
    let cells: Vec<Option<&Cell>> =
        rows.iter().map(|(distance, layout)| report.cell(*layout, *distance, kind)).collect();
    let seen = || cells.iter().flatten().flat_map(|cell| [cell.ratio.q1, cell.ratio.q3]).chain([1.0]);
    let step = 0.1;
    let low = (seen().fold(f64::INFINITY, f64::min) / step).floor() * step;
    let high = ((seen().fold(0.0, f64::max) / step).ceil() * step).max(low + step);
    let at = |ratio: f64| LABELS + (ratio - low) / (high - low) * PLOT;
    let better = match kind {
        Kind::Stream(_) => "throughput, more is better",
        _ => "CPU a transaction, less is better",
    };
    let raw = report.cell(Layout::Raw, Distance::SameNode, kind).map(absolute).unwrap_or_default();
    writeln!(
        svg,
        "<text y=\"14\"><tspan font-weight=\"bold\">{}</tspan><tspan fill=\"#666\"> · {better} · raw pair {raw}</tspan></text>",
        kind.title()
    )?;
    let bottom = 26.0 + ROW * rows.len() as f64;
    let ticks = ((high - low) / step).round() as usize;
    // At most eight lines, on round numbers.
    let every = ticks.div_ceil(8).max(1);
    for tick in (0..=ticks).step_by(every) {
        let ratio = low + step * tick as f64;
        let x = at(ratio);
        writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"24\" y2=\"{bottom:.1}\" stroke=\"#e4e4e4\"/>")?;
        writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{ratio:.1}</text>",
            bottom + 14.0
        )?;
    }
    let x = at(1.0);
    writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"24\" y2=\"{bottom:.1}\" stroke=\"#888\"/>")?;
    for (index, ((distance, layout), cell)) in rows.iter().zip(cells).enumerate() {
        let y = 26.0 + ROW * (index as f64 + 0.5);
        let label = format!("{}, {}", layout.title(), targets::title(*distance));
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LABELS - 8.0,
            y + 4.0
        )?;
        let Some(cell) = cell else { continue };
        let colour = match layout {
            Layout::Weir { .. } => "#0b7285",
            _ => "#b08968",
        };
        let (from, to, middle) = (at(cell.ratio.q1), at(cell.ratio.q3), at(cell.ratio.median));
        writeln!(
            svg,
            "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"6\" \
             stroke-opacity=\".35\" stroke-linecap=\"round\"/>"
        )?;
        writeln!(svg, "<circle cx=\"{middle:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>")?;
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#444\">{:.2}</text>",
            LABELS + PLOT + 10.0,
            y + 4.0,
            cell.ratio.median
        )?;
    }
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const WIDTH: f64 = 1160.0;
/// Room for the layouts' names in a panel, and for its plot.
const LABELS: f64 = 190.0;
const PLOT: f64 = 310.0;
const ROW: f64 = 20.0;
