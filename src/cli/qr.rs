//! A link as a QR code in the terminal, for the camera of a phone.

use std::io::{self, Write};

use console::{Style, Term};
use qrcode::{Color, EcLevel, QrCode};

use super::error::CliError;

/// Bytes in the largest QR code, at the lowest level of correction.
const MOST_BYTES: usize = 2953;
/// Light modules around the code. The standard has 4; on a terminal of 80 columns every one counts, and cameras do with 2.
const QUIET: usize = 2;

/// Draws `link`; without `force` only on a terminal that is wide enough.
///
/// # Errors
/// When there is no such terminal, or the link is too long for any code.
pub(super) fn draw(out: &mut impl Write, link: &str, force: bool) -> Result<(), CliError> {
    let terminal = Term::stdout();
    if !force && !terminal.is_term() {
        let text =
            "standard output is no terminal, and the code has the node's credentials in it: '--force' writes it there";
        return Err(CliError::Usage(text.to_owned()));
    }
    let code = QrCode::with_error_correction_level(link, EcLevel::L)
        .map_err(|_| CliError::TooLongForQr { bytes: link.len(), limit: MOST_BYTES })?;
    let width = code.width() + 2 * QUIET;
    let columns = usize::from(terminal.size().1);
    if !force && columns < width {
        let text = format!(
            "the code is {width} columns wide, and the terminal has {columns}: make it wider or its letters smaller ('--force' draws it all the same)"
        );
        return Err(CliError::Usage(text));
    }
    Ok(lines(out, &code)?)
}

/// Two modules to a character. Light ones are drawn, with colours of their own where the terminal has any: so the code
/// has its colours also on a light background.
fn lines(out: &mut impl Write, code: &QrCode) -> io::Result<()> {
    let style = Style::new().white().bright().on_black();
    let (size, colors) = (code.width(), code.to_colors());
    let light = |x: usize, y: usize| {
        let inside = (QUIET..size + QUIET).contains(&x) && (QUIET..size + QUIET).contains(&y);
        !inside || colors.get((y - QUIET) * size + (x - QUIET)) == Some(&Color::Light)
    };
    let side = size + 2 * QUIET;
    for y in (0..side).step_by(2) {
        let line: String = (0..side)
            .map(|x| match (light(x, y), y + 1 < side && light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            })
            .collect();
        writeln!(out, "{}", style.apply_to(line))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// What a camera reads from the drawing, with eight pixels a module.
    fn read(text: &str) -> String {
        const PIXELS: usize = 8;
        let text = console::strip_ansi_codes(text).into_owned();
        let rows: Vec<Vec<bool>> = text
            .lines()
            .flat_map(|line| {
                let upper = line.chars().map(|c| matches!(c, '█' | '▀')).collect();
                let lower = line.chars().map(|c| matches!(c, '█' | '▄')).collect();
                [upper, lower]
            })
            .collect();
        let (width, height) = (rows[0].len() * PIXELS, rows.len() * PIXELS);
        let pixel = |x: usize, y: usize| if rows[y / PIXELS][x / PIXELS] { 255 } else { 0 };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, pixel);
        let grids = image.detect_grids();
        grids.first().expect("a code in the drawing").decode().unwrap().1
    }

    #[test]
    fn a_camera_reads_the_link_back() {
        for link in
            ["trojan://p%40ss@h.example:443?type=ws&path=%2Fx#n".to_owned(), format!("vless://{}", "a%25".repeat(90))]
        {
            let mut out = Vec::new();
            lines(&mut out, &QrCode::with_error_correction_level(&link, EcLevel::L).unwrap()).unwrap();
            assert_eq!(read(std::str::from_utf8(&out).unwrap()), link);
        }
    }

    #[test]
    fn what_fits_no_code_is_refused_with_its_length() {
        let most = "a".repeat(MOST_BYTES);
        assert!(QrCode::with_error_correction_level(&most, EcLevel::L).is_ok());
        let error = draw(&mut Vec::new(), &format!("{most}a"), true).unwrap_err().to_string();
        assert!(error.contains("2954 bytes") && error.contains("2953"), "{error}");
        assert!(draw(&mut Vec::new(), &most, true).is_ok());
    }
}
