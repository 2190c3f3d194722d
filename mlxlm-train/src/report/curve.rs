//! The losses of a run as a picture, PNG or SVG. No font of the system is needed: see `letters.rs`.

use std::path::Path;

use mlxlm_core::io;
use plotters::prelude::*;

use super::letters::Lettered;
use crate::{Error, Result};

/// Pixels across and down.
pub(super) const SIZE: (u32, u32) = (960, 540);
const FONT: (&str, u32) = ("sans-serif", 16);
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALID: RGBColor = RGBColor(214, 39, 40);

/// Losses over iterations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// Of training.
    pub train: Vec<(u64, f64)>,
    /// Of validations.
    pub valid: Vec<(u64, f64)>,
}

impl Curve {
    /// Whether there is no loss at all.
    pub fn is_empty(&self) -> bool {
        self.train.is_empty() && self.valid.is_empty()
    }
}

/// Draws a curve as PNG.
pub fn draw_png(path: &Path, curve: &Curve) -> Result<()> {
    let wrong = |why: String| Error::Picture { path: path.to_owned(), why };
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(Lettered(BitMapBackend::with_buffer(&mut pixels, SIZE)), curve).map_err(wrong)?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|error| wrong(error.to_string()))?;
    Ok(io::write(path, file)?)
}

/// Draws a curve as SVG.
pub fn draw_svg(path: &Path, curve: &Curve) -> Result<()> {
    let mut svg = String::new();
    let drawn = draw(SVGBackend::with_string(&mut svg, SIZE), curve);
    drawn.map_err(|why| Error::Picture { path: path.to_owned(), why })?;
    Ok(io::write(path, svg)?)
}

fn draw<B: DrawingBackend>(backend: B, curve: &Curve) -> Result<(), String> {
    drawn(&backend.into_drawing_area(), curve).map_err(|error| error.to_string())
}

fn drawn<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    curve: &Curve,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let all = || curve.train.iter().chain(&curve.valid);
    let (first, last) = all().fold((u64::MAX, 0), |(a, b), &(at, _)| (a.min(at), b.max(at)));
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(a, b), &(_, loss)| (a.min(loss), b.max(loss)));
    let room = ((high - low) * 0.05).max(1e-3);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(first.min(last)..last.max(first + 1), low - room..high + room)?;
    chart.configure_mesh().x_desc("iteration").y_desc("loss").label_style(FONT).axis_desc_style(FONT).draw()?;
    for (points, name, colour) in [(&curve.train, "training", TRAIN), (&curve.valid, "validation", VALID)] {
        if points.is_empty() {
            continue;
        }
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    chart.configure_series_labels().label_font(FONT).background_style(WHITE).border_style(BLACK).draw()?;
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_point_and_equal_losses_can_be_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.png");
        for train in [vec![(1, 2.0)], vec![(1, 2.0), (2, 2.0)], vec![(u64::MAX / 2, f64::MAX / 4.0)]] {
            draw_png(&path, &Curve { train, valid: Vec::new() }).unwrap();
        }
    }

    #[test]
    fn the_picture_has_both_curves_and_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.png");
        let curve = Curve { train: vec![(1, 4.0), (50, 1.0)], valid: vec![(1, 3.0), (50, 2.0)] };
        draw_png(&path, &curve).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(io::read(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let count = |colour: [u8; 3]| pixels.chunks_exact(3).filter(|pixel| *pixel == colour).count();
        assert!(count([31, 119, 180]) > 500 && count([214, 39, 40]) > 500);
        // Left of the axis there is nothing but numbers and the word "loss".
        let dark = |pixel: &[u8]| pixel.iter().all(|&part| part < 100);
        let words = pixels.chunks_exact(SIZE.0 as usize * 3).flat_map(|row| row[..70 * 3].chunks_exact(3));
        assert!(words.filter(|pixel| dark(pixel)).count() > 300);
    }
}
