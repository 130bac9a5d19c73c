//! The icons, as shapes; and their pixels, for panels whose theme does not have them.
//!
//! The files in `desktop/icons` are written from the same shapes, see the tests: what is installed and what is sent over
//! the bus are one drawing. Each state has a form of its own, because colour alone says nothing to many eyes.

use std::sync::OnceLock;

use ksni::Icon;

use crate::model::Look;

/// Everything is drawn on a square of this size; the smallest icon has one pixel a unit.
const UNIT: f32 = 16.0;
/// What panels ask for, in pixels.
const SIZES: [i32; 5] = [16, 22, 24, 32, 48];

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Colour(u8, u8, u8);

const WHITE: Colour = Colour(0xff, 0xff, 0xff);
const GREEN: Colour = Colour(0x1f, 0x9d, 0x55);
const BLUE: Colour = Colour(0x2f, 0x7f, 0xd6);
const AMBER: Colour = Colour(0xcc, 0x6d, 0x00);
const RED: Colour = Colour(0xd3, 0x3b, 0x3b);
/// Neither lost on a white panel nor on a black one.
const GREY: Colour = Colour(0x8c, 0x92, 0x9c);

/// A filled form.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// The square tile behind a sign, with round corners.
    Tile,
    /// The outline of the tile.
    Frame,
    /// A disc: its centre and radius.
    Disc(f32, f32, f32),
    /// A ring: the centre, and the radius of the middle of its line.
    Ring(f32, f32, f32),
    /// A line with round ends: from, to, width.
    Bar(f32, f32, f32, f32, f32),
}

const TILE_EDGE: f32 = 1.0;
const TILE_ROUND: f32 = 4.0;
const FRAME_WIDTH: f32 = 1.6;
const RING_WIDTH: f32 = 1.2;

/// Two nodes, and what is between them.
const LINKED: &[Form] = &[Form::Bar(5.0, 11.0, 11.0, 5.0, 1.9), Form::Disc(5.0, 11.0, 2.3), Form::Disc(11.0, 5.0, 2.3)];
const LINKING: &[Form] = &[Form::Disc(4.9, 11.1, 2.0), Form::Disc(8.0, 8.0, 1.0), Form::Disc(11.1, 4.9, 2.0)];
const APART: &[Form] = &[Form::Ring(5.3, 10.7, 1.6), Form::Ring(10.7, 5.3, 1.6)];
const WARNING: &[Form] = &[Form::Bar(8.0, 4.5, 8.0, 8.5, 2.1), Form::Disc(8.0, 11.6, 1.3)];
const EXCHANGE: &[Form] = &[
    Form::Bar(4.2, 6.3, 11.8, 6.3, 1.6),
    Form::Bar(9.4, 3.9, 11.8, 6.3, 1.6),
    Form::Bar(4.2, 9.7, 11.8, 9.7, 1.6),
    Form::Bar(6.6, 12.1, 4.2, 9.7, 1.6),
];
const CROSS: &[Form] = &[Form::Bar(5.2, 5.2, 10.8, 10.8, 2.2), Form::Bar(10.8, 5.2, 5.2, 10.8, 2.2)];

/// The forms of an icon, back to front.
fn drawing(look: Look) -> Vec<(Form, Colour)> {
    let (ground, sign) = match look {
        Look::Disconnected => {
            let sign = APART.iter().map(|form| (*form, GREY));
            return std::iter::once((Form::Frame, GREY)).chain(sign).collect();
        }
        Look::Connecting => (BLUE, LINKING),
        Look::Connected => (GREEN, LINKED),
        Look::Degraded => (AMBER, WARNING),
        Look::Replacing => (BLUE, EXCHANGE),
        Look::Failed => (RED, CROSS),
    };
    std::iter::once((Form::Tile, ground)).chain(sign.iter().map(|form| (*form, WHITE))).collect()
}

impl Form {
    /// How far a point is from the edge; negative inside.
    fn distance(self, x: f32, y: f32) -> f32 {
        let tile = |edge: f32, round: f32| {
            let half = UNIT / 2.0 - edge - round;
            let (dx, dy) = ((x - UNIT / 2.0).abs() - half, (y - UNIT / 2.0).abs() - half);
            dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - round
        };
        match self {
            Self::Tile => tile(TILE_EDGE, TILE_ROUND),
            Self::Frame => {
                let inset = FRAME_WIDTH / 2.0;
                tile(TILE_EDGE + inset, TILE_ROUND - inset).abs() - inset
            }
            Self::Disc(cx, cy, r) => (x - cx).hypot(y - cy) - r,
            Self::Ring(cx, cy, r) => ((x - cx).hypot(y - cy) - r).abs() - RING_WIDTH / 2.0,
            Self::Bar(x1, y1, x2, y2, width) => {
                let (dx, dy) = (x2 - x1, y2 - y1);
                let along = (((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
                (x - x1 - along * dx).hypot(y - y1 - along * dy) - width / 2.0
            }
        }
    }
}

/// The icon in every size.
pub(crate) fn pixmaps(look: Look) -> Vec<Icon> {
    static DRAWN: OnceLock<Vec<(Look, Vec<Icon>)>> = OnceLock::new();
    let draw = || Look::ALL.map(|look| (look, SIZES.map(|size| pixmap(look, size)).to_vec())).to_vec();
    let drawn = DRAWN.get_or_init(draw).iter().find(|(drawn, _)| *drawn == look);
    drawn.map(|(_, icons)| icons.clone()).unwrap_or_default()
}

/// The icon with edges of `size` pixels: alpha, red, green, blue, not premultiplied, as the specification wants it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "colours between 0 and 255")]
#[expect(clippy::cast_precision_loss, reason = "sizes of icons")]
pub(crate) fn pixmap(look: Look, size: i32) -> Icon {
    let drawing = drawing(look);
    let scale = size as f32 / UNIT;
    let mut data = Vec::with_capacity(size.unsigned_abs().pow(2) as usize * 4);
    for row in 0..size {
        for column in 0..size {
            let (x, y) = ((column as f32 + 0.5) / scale, (row as f32 + 0.5) / scale);
            let (mut alpha, mut colour) = (0.0_f32, [0.0_f32; 3]);
            for (form, Colour(r, g, b)) in &drawing {
                // How much of the pixel is covered: the edge runs through its middle where the distance is 0.
                let cover = (0.5 - form.distance(x, y) * scale).clamp(0.0, 1.0);
                let below = alpha * (1.0 - cover);
                alpha = cover + below;
                if alpha > 0.0 {
                    for (value, new) in colour.iter_mut().zip([r, g, b]) {
                        *value = (f32::from(*new) * cover + *value * below) / alpha;
                    }
                }
            }
            data.push((alpha * 255.0).round() as u8);
            data.extend(colour.map(|value| value.round() as u8));
        }
    }
    Icon { width: size, height: size, data }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fmt::Write;
    use std::path::PathBuf;

    use super::*;

    /// Symbolic icons have one colour, which the desktop replaces, and no tile: the sign alone, larger.
    fn symbol(look: Look) -> Vec<Form> {
        const LARGER: f32 = 1.4;
        let sign: &[Form] = match look {
            Look::Disconnected => &[Form::Ring(5.0, 11.0, 1.9), Form::Ring(11.0, 5.0, 1.9)],
            Look::Connecting => &[Form::Ring(4.8, 11.2, 1.7), Form::Disc(8.0, 8.0, 0.9), Form::Ring(11.2, 4.8, 1.7)],
            Look::Connected => LINKED,
            Look::Degraded => WARNING,
            Look::Replacing => EXCHANGE,
            Look::Failed => CROSS,
        };
        let at = |v: f32| (v - UNIT / 2.0) * LARGER + UNIT / 2.0;
        let enlarge = |form: &Form| match *form {
            Form::Disc(x, y, r) => Form::Disc(at(x), at(y), r * LARGER),
            Form::Ring(x, y, r) => Form::Ring(at(x), at(y), r * LARGER),
            Form::Bar(x1, y1, x2, y2, width) => Form::Bar(at(x1), at(y1), at(x2), at(y2), width * LARGER),
            other => other,
        };
        sign.iter().map(enlarge).collect()
    }

    fn n(value: f32) -> String {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    fn circle(x: f32, y: f32, r: f32) -> String {
        format!("M{} {}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z", n(x - r), n(y), r = n(r), d = n(2.0 * r))
    }

    fn rounded(edge: f32, round: f32) -> String {
        let (run, r) = (n(UNIT - 2.0 * (edge + round)), n(round));
        format!(
            "M{} {}h{run}a{r} {r} 0 0 1 {r} {r}v{run}a{r} {r} 0 0 1 -{r} {r}h-{run}a{r} {r} 0 0 1 -{r} -{r}v-{run}\
             a{r} {r} 0 0 1 {r} -{r}z",
            n(edge + round),
            n(edge)
        )
    }

    /// The form as one path. Only fills: desktops give a symbolic icon's fills another colour, and no strokes.
    fn path(form: Form) -> String {
        match form {
            Form::Tile => rounded(TILE_EDGE, TILE_ROUND),
            Form::Frame => rounded(TILE_EDGE, TILE_ROUND) + &rounded(TILE_EDGE + FRAME_WIDTH, TILE_ROUND - FRAME_WIDTH),
            Form::Disc(x, y, r) => circle(x, y, r),
            Form::Ring(x, y, r) => circle(x, y, r + RING_WIDTH / 2.0) + &circle(x, y, r - RING_WIDTH / 2.0),
            Form::Bar(x1, y1, x2, y2, width) => {
                let length = (x2 - x1).hypot(y2 - y1);
                let (nx, ny) = (-(y2 - y1) / length * width / 2.0, (x2 - x1) / length * width / 2.0);
                let (r, p) = (n(width / 2.0), |x, y| format!("{} {}", n(x), n(y)));
                format!(
                    "M{}L{}A{r} {r} 0 0 0 {}L{}A{r} {r} 0 0 0 {}z",
                    p(x1 + nx, y1 + ny),
                    p(x2 + nx, y2 + ny),
                    p(x2 - nx, y2 - ny),
                    p(x1 - nx, y1 - ny),
                    p(x1 + nx, y1 + ny)
                )
            }
        }
    }

    fn svg(forms: &[(Form, Colour)]) -> String {
        let mut text =
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"16\" height=\"16\" viewBox=\"0 0 16 16\">\n".to_owned();
        for (form, Colour(r, g, b)) in forms {
            let path = path(*form);
            writeln!(text, "  <path fill=\"#{r:02x}{g:02x}{b:02x}\" fill-rule=\"evenodd\" d=\"{path}\"/>").unwrap();
        }
        text + "</svg>\n"
    }

    /// With `XRAT_WRITE_ICONS=1` it writes the files instead.
    #[test]
    fn the_files_are_these_drawings() {
        // The colour that desktops look for in a symbolic icon.
        const INK: Colour = Colour(0x2e, 0x34, 0x36);
        let source = std::env::var_os("XRAT_TEST_SOURCE");
        let icons = source.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let icons = icons.join("desktop/icons/hicolor");
        for look in Look::ALL {
            let symbol: Vec<_> = symbol(look).into_iter().map(|form| (form, INK)).collect();
            for (file, text) in [
                (format!("scalable/status/{}.svg", look.icon_name()), svg(&drawing(look))),
                (format!("symbolic/status/{}-symbolic.svg", look.icon_name()), svg(&symbol)),
            ] {
                let file = icons.join(file);
                if std::env::var_os("XRAT_WRITE_ICONS").is_some() {
                    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                    std::fs::write(&file, text).unwrap();
                } else {
                    let found = std::fs::read_to_string(&file).unwrap_or_default();
                    assert_eq!(found, text, "{}: write it with XRAT_WRITE_ICONS=1", file.display());
                }
            }
        }
    }

    #[test]
    fn pixels_are_alpha_and_colour_of_each_point() {
        let icon = pixmap(Look::Connected, 16);
        let at = |x: usize, y: usize| <[u8; 4]>::try_from(&icon.data[(y * 16 + x) * 4..][..4]).unwrap();
        assert_eq!(icon.data.len(), 16 * 16 * 4);
        assert_eq!(at(0, 0)[0], 0, "the corner is not covered");
        assert_eq!(at(4, 4), [0xff, GREEN.0, GREEN.1, GREEN.2]);
        assert_eq!(at(7, 8), [0xff; 4], "the line between the nodes");
        let sizes: Vec<_> = pixmaps(Look::Failed).iter().map(|icon| icon.width).collect();
        assert_eq!(sizes, SIZES);
    }

    #[test]
    fn no_two_states_look_alike() {
        for (index, look) in Look::ALL.iter().enumerate() {
            for other in &Look::ALL[index + 1..] {
                // Also without colours.
                let grey = |look| pixmap(look, 16).data.chunks(4).map(|p| (p[0], p[1] > 0xf0)).collect::<Vec<_>>();
                assert_ne!(grey(*look), grey(*other), "{look:?} and {other:?}");
            }
        }
    }
}
