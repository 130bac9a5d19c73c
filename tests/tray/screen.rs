//! What is on the screen: Xvfb keeps its picture in a file, as XWD has it, and there it can be looked at.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Red, green, blue.
pub(crate) type Colour = [u8; 3];

/// A picture of the screen at one moment.
pub(crate) struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<Colour>,
}

/// A part of the screen, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) left: usize,
    pub(crate) top: usize,
    pub(crate) right: usize,
    pub(crate) bottom: usize,
}

impl Area {
    /// The point in the middle.
    pub(crate) fn middle(self) -> (usize, usize) {
        (usize::midpoint(self.left, self.right), usize::midpoint(self.top, self.bottom))
    }
}

impl Picture {
    /// Reads Xvfb's file: a header of 32-bit numbers, colours, and four bytes a pixel.
    pub(crate) fn take(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        let field = |at: usize| u32::from_be_bytes(bytes[at * 4..][..4].try_into().unwrap()) as usize;
        let (header, width, height, bits, line, colours) =
            (field(0), field(4), field(5), field(11), field(12), field(19));
        assert_eq!((field(1), bits), (7, 32), "an XWD file of version 7 with 32 bits a pixel");
        let data = &bytes[header + colours * 12..];
        let pixels = (0..height).flat_map(|row| data[row * line..][..width * 4].chunks_exact(4));
        Self { width, height, pixels: pixels.map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect() }
    }

    /// The smallest area with every pixel of this colour in these rows, if there are at least `least`.
    pub(crate) fn find(&self, colour: Colour, least: usize, rows: Range<usize>) -> Option<Area> {
        let mut area = Area { left: self.width, top: self.height, right: 0, bottom: 0 };
        let mut count = 0;
        for (index, pixel) in self.pixels.iter().enumerate() {
            let (x, y) = (index % self.width, index / self.width);
            if *pixel == colour && rows.contains(&y) {
                area = Area {
                    left: area.left.min(x),
                    top: area.top.min(y),
                    right: area.right.max(x),
                    bottom: area.bottom.max(y),
                };
                count += 1;
            }
        }
        (count >= least).then_some(area)
    }

    /// Keeps it as a PNG among the artifacts.
    pub(crate) fn keep(&self, name: &str) -> PathBuf {
        let target = || super::lab::source_dir().join("target");
        let directory = std::env::var_os("XRAT_ARTIFACTS").map_or_else(|| target().join("artifacts"), PathBuf::from);
        let written = std::fs::create_dir_all(&directory).and_then(|()| {
            let file = directory.join(format!("{name}.png"));
            std::fs::write(&file, self.png()).map(|()| file)
        });
        match written {
            Ok(file) => {
                println!("kept {}", file.display());
                file
            }
            // Where the tests run on a copy that is not theirs, nobody wants the picture.
            Err(error) => {
                println!("not kept: {}: {error}", directory.display());
                PathBuf::new()
            }
        }
    }

    fn png(&self) -> Vec<u8> {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
        for row in self.pixels.chunks_exact(self.width) {
            // No filter.
            packed.write_all(&[0]).unwrap();
            packed.write_all(row.as_flattened()).unwrap();
        }
        let size = |value: usize| u32::try_from(value).unwrap().to_be_bytes();
        // Eight bits a sample, colours without alpha, and no variants.
        let header = [&size(self.width)[..], &size(self.height)[..], &[8, 2, 0, 0, 0]].concat();
        let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, body) in [(b"IHDR", header), (b"IDAT", packed.finish().unwrap()), (b"IEND", Vec::new())] {
            let mut check = flate2::Crc::new();
            check.update(kind);
            check.update(&body);
            png.extend(size(body.len()));
            png.extend(kind);
            png.extend(&body);
            png.extend(check.sum().to_be_bytes());
        }
        png
    }
}
