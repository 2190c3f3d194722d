//! Letters for pictures on machines without fonts: plotters draws on any [`DrawingBackend`], and this one draws text from the
//! public-domain bitmaps of `font8x8` and hands all else on.

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind};

/// Pixels of a letter's bitmap, across and down.
const PIXELS: i32 = 8;

/// A backend with letters of its own.
#[derive(Debug)]
pub(super) struct Lettered<B>(pub(super) B);

impl<B: DrawingBackend> DrawingBackend for Lettered<B> {
    type ErrorType = B::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.present()
    }

    fn draw_pixel(
        &mut self,
        point: BackendCoord,
        color: BackendColor,
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.draw_pixel(point, color)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.draw_line(from, to, style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        bottom_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.draw_rect(upper_left, bottom_right, style, fill)
    }

    fn draw_text<T: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &T,
        pos: BackendCoord,
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        let (scale, anchor) = (scale(style), style.anchor());
        let (width, height) = size(text, scale);
        let left = match anchor.h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match anchor.v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        for (i, letter) in (0..).zip(text.chars()) {
            for (y, row) in (0..).zip(bitmap(letter)) {
                for x in (0..PIXELS).filter(|x| row >> x & 1 == 1) {
                    for dot in 0..scale * scale {
                        let across = left + (i * PIXELS + x) * scale + dot % scale;
                        let (dx, dy) = style.transform().transform(across, top + y * scale + dot / scale);
                        self.draw_pixel((pos.0 + dx, pos.1 + dy), style.color())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<T: BackendTextStyle>(
        &self,
        text: &str,
        style: &T,
    ) -> Result<(u32, u32), DrawingErrorKind<Self::ErrorType>> {
        let (width, height) = size(text, scale(style));
        Ok((width as u32, height as u32))
    }
}

/// How many pixels a pixel of a letter takes in each direction.
fn scale<T: BackendTextStyle>(style: &T) -> i32 {
    ((style.size() / f64::from(PIXELS)).round() as i32).clamp(1, 8)
}

fn size(text: &str, scale: i32) -> (i32, i32) {
    (text.chars().count() as i32 * PIXELS * scale, PIXELS * scale)
}

/// The rows of a letter, the lowest bit left; of one that there is none of, those of a question mark.
fn bitmap(letter: char) -> [u8; 8] {
    let letters = &font8x8::legacy::BASIC_LEGACY;
    *letters.get(letter as usize).unwrap_or(&letters['?' as usize])
}
