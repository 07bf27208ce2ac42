//! The figures as one SVG of four panels, readable in black and white and without a browser.

use std::fmt::Write as _;

use crate::figures::{Measure, Spread};

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 800.0;
/// Of a panel's drawing area.
const AREA: (f64, f64) = (440.0, 230.0);
/// Upper left corners of the drawing areas.
const PLACES: [(f64, f64); 4] = [(70.0, 130.0), (600.0, 130.0), (70.0, 500.0), (600.0, 500.0)];

const INK: &str = "#1f2933";
const PALE: &str = "#616e7c";
const PRODUCT: &str = "#0b69a3";
const SECOND: &str = "#c27803";
const FLOOR: &str = "#9aa5b1";

/// One series of a panel.
struct Series {
    label: &'static str,
    colour: &'static str,
    /// One value a group.
    values: Vec<Option<Spread>>,
}

/// A panel: groups along the bottom, a value axis from zero.
struct Panel {
    title: &'static str,
    unit: &'static str,
    groups: Vec<String>,
    series: Vec<Series>,
    /// Series on top of one another instead of beside.
    stacked: bool,
    /// Digits after the point in the labels.
    digits: usize,
}

/// All measures in one picture.
pub fn svg(measures: &[Measure]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">
<rect width="100%" height="100%" fill="white"/>
<text x="40" y="42" font-size="20" font-weight="bold">Exhibit: the data path end to end</text>
<text x="40" y="64" fill="{PALE}">order to seal over mutual TLS on loopback, every byte verified, every segment synced; median, whiskers from least to most</text>"#
    );
    let panels = [rate(measures), processor(measures), size(measures), agents(measures)];
    for (panel, (x, y)) in panels.iter().zip(PLACES) {
        let _ = writeln!(out, r#"<g transform="translate({x} {y})">"#);
        panel.draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn of<'a>(measures: &'a [Measure], bench: &str) -> Vec<&'a Measure> {
    measures.iter().filter(|m| m.bench == bench).collect()
}

fn series(label: &'static str, colour: &'static str, of: &[&Measure], value: impl Fn(&Measure) -> Option<Spread>) -> Series {
    Series { label, colour, values: of.iter().map(|m| value(m)).collect() }
}

fn rate(measures: &[Measure]) -> Panel {
    let of = of(measures, "collect");
    Panel {
        title: "Rate by data",
        unit: "MiB/s",
        groups: of.iter().map(|m| format!("{}, {:.2} GiB", m.data.name, m.gib())).collect(),
        series: vec![
            series("floor of this machine", FLOOR, &of, Measure::floor_mib_per_s),
            series("Exhibit", PRODUCT, &of, |m| Some(m.mib_per_s())),
            series("best by hand", SECOND, &of, Measure::peer_mib_per_s),
        ],
        stacked: false,
        digits: 0,
    }
}

fn processor(measures: &[Measure]) -> Panel {
    let of = of(measures, "collect");
    Panel {
        title: "Processor time",
        unit: "CPU-s/GiB",
        groups: of.iter().map(|m| m.data.name.to_owned()).collect(),
        series: vec![
            series("agent", PRODUCT, &of, |m| Some(m.spread(|r| r.agent_cpu_s / m.gib()))),
            series("coordinator", SECOND, &of, |m| Some(m.spread(|r| r.coordinator_cpu_s / m.gib()))),
        ],
        stacked: true,
        digits: 1,
    }
}

fn size(measures: &[Measure]) -> Panel {
    let of = of(measures, "size");
    Panel {
        title: "Peak memory as one item grows",
        unit: "MiB",
        groups: of.iter().map(|m| format!("{:.2} GiB", m.gib())).collect(),
        series: vec![
            series("agent", PRODUCT, &of, |m| Some(m.spread(|r| r.agent_rss_mib))),
            series("coordinator", SECOND, &of, |m| Some(m.spread(|r| r.coordinator_rss_mib))),
        ],
        stacked: false,
        digits: 0,
    }
}

fn agents(measures: &[Measure]) -> Panel {
    let of = of(measures, "agents");
    let agents = |n: usize| if n == 1 { "1 agent".to_owned() } else { format!("{n} agents") };
    Panel {
        title: "Rate of all agents together",
        unit: "MiB/s",
        groups: of.iter().map(|m| agents(m.setting.agents)).collect(),
        series: vec![
            series("floor of this machine", FLOOR, &of, Measure::floor_mib_per_s),
            series("Exhibit", PRODUCT, &of, |m| Some(m.mib_per_s())),
        ],
        stacked: false,
        digits: 0,
    }
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let (width, height) = AREA;
        let _ = writeln!(out, r#"<text x="0" y="-34" font-size="14" font-weight="bold">{}</text>"#, self.title);
        if self.groups.is_empty() {
            let _ = writeln!(out, r#"<text x="0" y="0" fill="{PALE}">not measured in this run</text>"#);
            return;
        }
        self.legend(out);
        let step = nice_step(self.highest());
        let top = (self.highest() * 1.08 / step).ceil() * step;
        let y = |value: f64| height - value / top * height;
        for n in 0..=(top / step).round() as usize {
            let value = n as f64 * step;
            let _ = writeln!(
                out,
                r##"<line x1="0" x2="{width}" y1="{0:.1}" y2="{0:.1}" stroke="#e4e7eb"/><text x="-8" y="{1:.1}" text-anchor="end" fill="{PALE}">{value}</text>"##,
                y(value),
                y(value) + 4.0
            );
        }
        let _ = writeln!(out, r#"<text x="-8" y="-8" text-anchor="end" fill="{PALE}" font-size="11">{}</text>"#, self.unit);
        let slot = width / self.groups.len() as f64;
        for (g, group) in self.groups.iter().enumerate() {
            let middle = (g as f64 + 0.5) * slot;
            let _ = writeln!(out, r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{group}</text>"#, height + 20.0);
            if self.stacked { self.stack(out, g, middle, slot, &y) } else { self.beside(out, g, middle, slot, &y) }
        }
        let _ = writeln!(out, r#"<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="{INK}"/>"#);
    }

    /// Right of the title, from the right.
    fn legend(&self, out: &mut String) {
        let mut x = AREA.0;
        for series in self.series.iter().rev() {
            // About the width of the text; 7 units a letter at this size.
            x -= series.label.len() as f64 * 7.0 + 26.0;
            let _ = writeln!(
                out,
                r#"<rect x="{x:.0}" y="-22" width="11" height="11" fill="{}"/><text x="{:.0}" y="-12">{}</text>"#,
                series.colour,
                x + 16.0,
                series.label
            );
        }
    }

    /// The highest thing to be drawn.
    fn highest(&self) -> f64 {
        let max = |s: &Spread| s.max;
        let column = |g: usize| self.series.iter().filter_map(move |s| s.values[g].as_ref().map(max));
        let columns = 0..self.groups.len();
        columns.map(|g| if self.stacked { column(g).sum() } else { column(g).fold(0.0, f64::max) }).fold(0.001, f64::max)
    }

    fn beside(&self, out: &mut String, group: usize, middle: f64, slot: f64, y: &dyn Fn(f64) -> f64) {
        let bar = (slot * 0.8 / self.series.len() as f64).min(46.0);
        let left = middle - bar * self.series.len() as f64 / 2.0;
        for (n, series) in self.series.iter().enumerate() {
            let Some(spread) = series.values[group] else { continue };
            let x = left + n as f64 * bar;
            rect(out, x + 2.0, y(spread.median), bar - 4.0, y(0.0) - y(spread.median), series.colour);
            whisker(out, x + bar / 2.0, y(spread.min), y(spread.max));
            label(out, x + bar / 2.0, y(spread.max) - 6.0, spread.median, self.digits);
        }
    }

    fn stack(&self, out: &mut String, group: usize, middle: f64, slot: f64, y: &dyn Fn(f64) -> f64) {
        let bar = (slot * 0.5).min(60.0);
        let mut below = 0.0;
        for series in &self.series {
            let Some(spread) = series.values[group] else { continue };
            let (low, high) = (y(below), y(below + spread.median));
            rect(out, middle - bar / 2.0, high, bar, low - high, series.colour);
            // A number that does not fit into its part would lie on a neighbour's.
            if low - high > 16.0 {
                let (x, y, digits) = (middle, f64::midpoint(low, high) + 4.0, self.digits);
                let _ = writeln!(
                    out,
                    r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle" fill="white" font-weight="bold">{:.digits$}</text>"#,
                    spread.median
                );
            }
            below += spread.median;
        }
        label(out, middle, y(below) - 6.0, below, self.digits);
    }
}

fn rect(out: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(out, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#);
}

fn whisker(out: &mut String, x: f64, low: f64, high: f64) {
    let _ = writeln!(
        out,
        r#"<path d="M{x:.1} {low:.1}V{high:.1}M{0:.1} {low:.1}H{1:.1}M{0:.1} {high:.1}H{1:.1}" stroke="{INK}" fill="none"/>"#,
        x - 4.0,
        x + 4.0
    );
}

fn label(out: &mut String, x: f64, y: f64, value: f64, digits: usize) {
    let _ = writeln!(out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle" font-size="11">{value:.digits$}</text>"#);
}

/// 1, 2 or 5 times a power of ten, so that about five lines fit below `highest`.
fn nice_step(highest: f64) -> f64 {
    let rough = highest / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough).unwrap_or(10.0);
    factor * power
}
