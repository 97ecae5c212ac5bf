//! Vectors as people save them: numpy's arrays, tensors by layer, lists, tables, columns; what they are read as, and what
//! is refused by name. The files are made here, byte by byte, as numpy and torch write them.

use std::path::{Path, PathBuf};

use lmscope::edit::Edit;
use lmscope::edit::direction::{Direction, DirectionOrigin, norm};
use lmscope::instruments::logit_lens::lens_file::LensFile;
use lmscope::model::network::site::{Address, Site};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::places;
use crate::cli::{outcome, refused, written};
use crate::demo::demo;
use crate::lies::guard::peak_of;

/// A `.npy` file.
pub fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8], version: u8) -> Vec<u8> {
    let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let order = if fortran { "True" } else { "False" };
    let mut header = format!(
        "{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({}{comma}), }}",
        sides.join(", ")
    );
    let fixed = if version == 1 { 10 } else { 12 };
    let whole = (fixed + header.len() + 1).next_multiple_of(64);
    header.push_str(&" ".repeat(whole - fixed - header.len() - 1));
    header.push('\n');
    let mut out = b"\x93NUMPY".to_vec();
    out.extend([version, 0]);
    if version == 1 {
        out.extend((header.len() as u16).to_le_bytes());
    } else {
        out.extend((header.len() as u32).to_le_bytes());
    }
    out.extend(header.bytes());
    out.extend(data);
    out
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn crc(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !data.iter().fold(!0, step)
}

/// Deflate without compression: blocks as they are.
fn deflated(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let count = data.chunks(65535).count();
    for (i, part) in data.chunks(65535).enumerate() {
        out.push(u8::from(i + 1 == count));
        out.extend((part.len() as u16).to_le_bytes());
        out.extend((!(part.len() as u16)).to_le_bytes());
        out.extend(part);
    }
    out
}

/// A zip of entries, stored or deflated, each with the size it claims.
fn zip(entries: &[(&str, &[u8])], packed: bool, claims: Option<u32>) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let body = if packed {
            deflated(data)
        } else {
            data.to_vec()
        };
        let at = out.len() as u32;
        let mut common = Vec::new();
        common.extend([0, 0]);
        common.extend((if packed { 8u16 } else { 0 }).to_le_bytes());
        common.extend([0; 4]);
        common.extend(crc(data).to_le_bytes());
        common.extend((body.len() as u32).to_le_bytes());
        common.extend(claims.unwrap_or(data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&common);
        out.extend(name.bytes());
        out.extend(&body);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// What a pickle of `torch.save` is written from.
enum Py {
    Tensor(Vec<usize>, Vec<f32>),
    Dict(Vec<(Py, Py)>),
    List(Vec<Py>),
    Int(i32),
    Float(f64),
    Text(&'static str),
    None,
}

struct Pickler {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Pickler {
    fn text(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.bytes());
    }

    fn int(&mut self, n: i32) {
        self.out.push(b'J');
        self.out.extend(n.to_le_bytes());
    }

    fn tuple(&mut self, sides: &[usize]) {
        self.out.push(b'(');
        sides.iter().for_each(|n| self.int(*n as i32));
        self.out.push(b't');
    }

    fn value(&mut self, value: &Py) {
        match value {
            Py::Int(n) => self.int(*n),
            Py::Float(x) => {
                self.out.push(b'G');
                self.out.extend(x.to_be_bytes());
            }
            Py::Text(text) => self.text(text),
            Py::None => self.out.push(b'N'),
            Py::List(items) => {
                self.out.extend(b"](");
                items.iter().for_each(|item| self.value(item));
                self.out.push(b'e');
            }
            Py::Dict(pairs) => {
                self.out.extend(b"}(");
                for (key, value) in pairs {
                    self.value(key);
                    self.value(value);
                }
                self.out.push(b'u');
            }
            Py::Tensor(shape, values) => {
                self.out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
                self.text("storage");
                self.out.extend(b"ctorch\nFloatStorage\n");
                let key = self.storages.len().to_string();
                self.text(&key);
                self.text("cpu");
                self.int(values.len() as i32);
                self.out.extend(b"tQ");
                self.int(0);
                self.tuple(shape);
                let stride: Vec<usize> = (0..shape.len())
                    .map(|i| shape[i + 1..].iter().product())
                    .collect();
                self.tuple(&stride);
                self.out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
                self.storages.push(f32s(values));
            }
        }
    }
}

fn torch(value: &Py) -> Vec<u8> {
    let mut pickler = Pickler {
        out: b"\x80\x02".to_vec(),
        storages: Vec::new(),
    };
    pickler.value(value);
    pickler.out.push(b'.');
    let names: Vec<String> = (0..pickler.storages.len())
        .map(|i| format!("a/data/{i}"))
        .collect();
    let mut entries: Vec<(&str, &[u8])> = vec![("a/data.pkl", &pickler.out)];
    entries.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(pickler.storages.iter().map(Vec::as_slice)),
    );
    zip(&entries, false, None)
}

/// A vector that tells its number, `[width]`.
fn vector(number: usize, width: usize) -> Vec<f32> {
    (0..width)
        .map(|i| number as f32 + (i % 5) as f32 * 0.25 + 1.0)
        .collect()
}

fn table(rows: usize, width: usize) -> Vec<f32> {
    (0..rows).flat_map(|r| vector(r, width)).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn load(path: &Path) -> Result<Direction, String> {
    Direction::load(path).map_err(|e| e.to_string())
}

fn error(path: &Path) -> String {
    load(path).map(|d| places(&d)).unwrap_err()
}

#[test]
fn arrays_of_numpy_are_read_in_every_type_and_order() {
    let folder = Folder::new();
    let expected = [1.5f32, -2.0, 0.25];
    let halves: Vec<u8> = [0x3e00u16, 0xc000, 0x3400]
        .iter()
        .flat_map(|h| h.to_le_bytes())
        .collect();
    let brains: Vec<u8> = expected
        .iter()
        .flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
        .collect();
    let doubles: Vec<u8> = expected
        .iter()
        .flat_map(|v| f64::from(*v).to_le_bytes())
        .collect();
    let big: Vec<u8> = expected.iter().flat_map(|v| v.to_be_bytes()).collect();
    let bigger: Vec<u8> = expected
        .iter()
        .flat_map(|v| f64::from(*v).to_be_bytes())
        .collect();
    for (descr, data) in [
        ("<f4", &f32s(&expected)),
        ("<f2", &halves),
        ("|V2", &brains),
        ("<V2", &brains),
        ("<f8", &doubles),
        (">f4", &big),
        (">f8", &bigger),
    ] {
        for version in 1..=3 {
            for shape in [&[3][..], &[1, 3], &[3, 1], &[1, 1, 3]] {
                for fortran in [false, true] {
                    let path = folder.file("v.npy", &npy(descr, fortran, shape, data, version));
                    let read = load(&path).unwrap();
                    assert_eq!(read.rows[0].1, expected, "{descr} {shape:?}");
                    assert!(read.origin.anywhere && read.rows.len() == 1);
                }
            }
        }
    }
    // Columns first: element [i, j] of [2, 3] is at i + 2 j.
    let columns = f32s(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let path = folder.file("t.npy", &npy("<f4", true, &[2, 3], &columns, 1));
    let read = load(&path).unwrap();
    assert_eq!(read.rows[0].1, [1.0, 2.0, 3.0]);
    assert_eq!(read.rows[1].1, [4.0, 5.0, 6.0]);
    // Beside JSON, as of every file.
    std::fs::write(path.with_extension("json"), r#"{"site": "mlp_out"}"#).unwrap();
    assert_eq!(places(&load(&path).unwrap()), ["mlp_out.0", "mlp_out.1"]);
}

#[test]
fn what_is_no_array_of_numbers_is_refused_with_a_sentence() {
    let folder = Folder::new();
    let good = npy("<f4", false, &[3], &f32s(&[1.0, 2.0, 3.0]), 1);
    for (name, bytes, word) in [
        (
            "object",
            npy("|O", false, &[], b"\x80\x04K\x01.", 1),
            "would have to be run",
        ),
        ("ints", npy("<i8", false, &[1], &[0; 8], 1), "`i8`"),
        ("short", good[..good.len() - 4].to_vec(), "bytes of numbers"),
        ("long", [&good[..], &[0; 4]].concat(), "bytes of numbers"),
        (
            "huge",
            npy("<f4", false, &[usize::MAX, 4], &[0; 16], 1),
            "bytes of numbers",
        ),
        ("version", npy("<f4", false, &[3], &[0; 12], 9), "version 9"),
        ("cut", good[..20].to_vec(), "no header"),
        ("magic", b"\x93NUMPX\x01\0".to_vec(), "not an array"),
        (
            "scalar",
            npy("<f4", false, &[], &f32s(&[1.0]), 1),
            "no vector",
        ),
        (
            "nan",
            npy("<f4", false, &[2], &f32s(&[1.0, f32::NAN]), 1),
            "NaN",
        ),
        (
            "zero",
            npy("<f4", false, &[2], &f32s(&[0.0, -0.0]), 1),
            "zero",
        ),
    ] {
        let path = folder.file(&format!("{name}.npy"), &bytes);
        let said = error(&path);
        assert!(said.contains(word) && said.contains(name), "{name}: {said}");
    }
    let mut header = b"\x93NUMPY\x02\0".to_vec();
    header.extend(u32::MAX.to_le_bytes());
    assert!(error(&folder.file("header.npy", &header)).contains("header of 4294967295 bytes"));
    let fields = b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n";
    let mut named = b"\x93NUMPY\x01\0".to_vec();
    named.extend((fields.len() as u16).to_le_bytes());
    named.extend(fields);
    assert!(error(&folder.file("fields.npy", &named)).contains("named fields"));
}

#[test]
fn several_arrays_are_layers_or_have_names() {
    let folder = Folder::new();
    let array = |n: usize| npy("<f4", false, &[6], &f32s(&vector(n, 6)), 1);
    let (four, seven) = (array(4), array(7));
    for packed in [false, true] {
        for (a, b) in [("4", "7"), ("layer_4", "layer_7"), ("layers.4", "layers.7")] {
            let names = (format!("{a}.npy"), format!("{b}.npy"));
            let bytes = zip(&[(&names.0, &four), (&names.1, &seven)], packed, None);
            let read = load(&folder.file("v.npz", &bytes)).unwrap();
            assert!(
                read.origin.anywhere
                    && read.origin.cautions[0].contains("every site of that layer")
            );
            for site in [Site::ResidPre, Site::ResidPost, Site::MlpOut] {
                assert_eq!(read.at(site.at(4)).unwrap(), vector(4, 6), "{a}");
                assert_eq!(read.at(site.at(7)).unwrap(), vector(7, 6), "{a}");
                assert!(read.at(site.at(5)).is_err());
            }
            assert_eq!(
                read.moved_to("resid_pre").unwrap().span(),
                "resid_pre.4, resid_pre.7"
            );
        }
        let bytes = zip(
            &[("resid_pre_4.npy", &four), ("resid_pre_7.npy", &seven)],
            packed,
            None,
        );
        assert_eq!(
            places(&load(&folder.file("v.npz", &bytes)).unwrap()),
            ["resid_pre.4", "resid_pre.7"]
        );
        let bytes = zip(&[("calm.npy", &four), ("angry.npy", &seven)], packed, None);
        let path = folder.file("moods.npz", &bytes);
        let said = error(&path);
        assert!(
            said.contains("angry, calm") && said.contains("moods.npz#angry"),
            "{said}"
        );
        let name = |key: &str| format!("{}#{key}", path.display());
        assert_eq!(
            Direction::open(&name("calm")).unwrap().unwrap().rows[0].1,
            vector(4, 6)
        );
        assert_eq!(
            Direction::open(&name("angry")).unwrap().unwrap().rows[0].1,
            vector(7, 6)
        );
        let none = Direction::open(&name("sad")).unwrap_err().to_string();
        assert!(none.contains("no vector called `sad`"), "{none}");
        // An entry that claims more than it unpacks to, or more than anybody's memory.
        let lies = zip(&[("4.npy", &four)], packed, Some(four.len() as u32 + 9));
        assert!(load(&folder.file("lies.npz", &lies)).is_err());
        let bomb = zip(&[("4.npy", &four)], true, Some(u32::MAX - 1));
        let peak = peak_of(|| drop(load(&folder.file("bomb.npz", &bomb))));
        assert!(peak < 8 << 20, "{peak}");
    }
    let odd = zip(
        &[
            ("4.npy", &four),
            ("7.npy", &npy("<f4", false, &[2], &f32s(&[1.0, 2.0]), 1)),
        ],
        false,
        None,
    );
    assert!(error(&folder.file("odd.npz", &odd)).contains("its first vector has 6"));
    let mut torn = zip(&[("4.npy", &four)], true, None);
    let at = torn
        .windows(4)
        .position(|w| w == [0, 0, 0xa0, 0x40])
        .unwrap();
    torn[at] ^= 1;
    assert!(error(&folder.file("torn.npz", &torn)).contains("damaged"));
}

#[test]
fn tensors_of_torch_are_found_where_they_lie() {
    let folder = Folder::new();
    let tensor = |n: usize| Py::Tensor(vec![6], vector(n, 6));
    let by_layer = |keys: [Py; 2]| {
        let [a, b] = keys;
        Py::Dict(vec![(a, tensor(4)), (b, tensor(7))])
    };
    for dict in [
        by_layer([Py::Int(4), Py::Int(7)]),
        by_layer([Py::Text("layer_4"), Py::Text("layer_7")]),
        Py::Dict(vec![(
            Py::Text("vectors"),
            by_layer([Py::Int(4), Py::Int(7)]),
        )]),
    ] {
        let read = load(&folder.file("v.pt", &torch(&dict))).unwrap();
        assert_eq!(read.at(Site::ResidPre.at(4)).unwrap(), vector(4, 6));
        assert_eq!(read.at(Site::ResidPre.at(7)).unwrap(), vector(7, 6));
        assert!(read.at(Site::ResidPre.at(5)).is_err());
    }
    let nested = Py::Dict(vec![
        (Py::Text("vector"), Py::Tensor(vec![6, 1], vector(3, 6))),
        (Py::Text("role"), Py::Text("pirate")),
        (Py::Text("norm"), Py::Float(2.5)),
        (Py::Text("nothing"), Py::None),
    ]);
    assert_eq!(
        load(&folder.file("v.pt", &torch(&nested))).unwrap().rows[0].1,
        vector(3, 6)
    );
    let alone = Py::Dict(vec![(Py::Int(4), tensor(4))]);
    let read = load(&folder.file("v.pt", &torch(&alone))).unwrap();
    // The only vector serves elsewhere too, and which layer the file says is told.
    assert!(read.at(Site::ResidPre.at(2)).is_ok());
    assert!(
        read.origin.cautions[0].contains("layer 4 but no site"),
        "{:?}",
        read.origin
    );
    let several = load(&folder.file("v.pt", &torch(&by_layer([Py::Int(4), Py::Int(7)])))).unwrap();
    assert!(several.origin.cautions[0].contains("layer numbers"));
    // A column, beside the JSON of refusal_direction.
    let path = folder.file("column.pt", &torch(&Py::Tensor(vec![6, 1], vector(2, 6))));
    std::fs::write(
        folder.0.path().join("column_metadata.json"),
        r#"{"pos": -1, "layer": 4}"#,
    )
    .unwrap();
    let read = load(&path).unwrap();
    assert_eq!(
        (places(&read), &read.rows[0].1),
        (vec!["resid_pre.4".to_string()], &vector(2, 6))
    );
    // Numbers in every way that pickles write them.
    let mut bytes = torch(&nested);
    let at = bytes
        .windows(9)
        .position(|w| w[0] == b'G' && w[1..] == 2.5f64.to_be_bytes())
        .unwrap();
    for number in [
        &b"F2.50000\n"[..],
        b"I2500000\n",
        b"L250000L\n",
        b"I01\nNNNNN",
    ] {
        if number.ends_with(b"N") {
            continue;
        }
        bytes[at..at + 9].copy_from_slice(number);
        assert!(
            load(&folder.file("v.pt", &bytes)).is_ok(),
            "{}",
            String::from_utf8_lossy(number)
        );
    }
}

/// The demo has eight blocks of 128.
#[test]
fn a_table_is_read_by_how_many_rows_it_has() {
    let folder = Folder::new();
    let lab = demo();
    let (layers, width) = (lab.model.card.layers, lab.model.card.d_model);
    let files = |rows: usize| {
        let list = (0..rows)
            .map(|r| Py::Tensor(vec![width], vector(r, width)))
            .collect();
        let bytes = f32s(&table(rows, width));
        vec![
            folder.file("list.pt", &torch(&Py::List(list))),
            folder.file(
                "axis.pt",
                &torch(&Py::Tensor(vec![rows, width], table(rows, width))),
            ),
            folder.file("axis.npy", &npy("<f4", false, &[rows, width], &bytes, 1)),
            folder.file("wide.npy", &npy("<f4", false, &[rows, 1, width], &bytes, 1)),
            folder.file(
                "axis.npz",
                &zip(
                    &[("axis.npy", &npy("<f4", false, &[rows, width], &bytes, 1))],
                    true,
                    None,
                ),
            ),
        ]
    };
    for path in files(layers) {
        let read = lab.direction(path.to_str().unwrap()).unwrap();
        assert_eq!(
            read.span(),
            format!("resid_post.0-{}", layers - 1),
            "{}",
            path.display()
        );
        assert_eq!(read.at(Site::ResidPost.at(3)).unwrap(), vector(3, width));
        assert_eq!(
            read.at(Site::ResidPre.at(4)).unwrap(),
            vector(3, width),
            "the same state"
        );
        let said = read.caution(&lab.model.card);
        assert!(said.contains("output of block L, resid_post.L"), "{said}");
    }
    for path in files(layers + 1) {
        let read = lab.direction(path.to_str().unwrap()).unwrap();
        assert_eq!(
            read.span(),
            format!("resid_pre.0-{}", layers - 1),
            "{}",
            path.display()
        );
        // Row l is what enters block l: the output of block l - 1, which persona vectors steers.
        assert_eq!(read.at(Site::ResidPre.at(4)).unwrap(), vector(4, width));
        assert_eq!(read.at(Site::ResidPost.at(3)).unwrap(), vector(4, width));
        assert!(
            read.at(Site::ResidPost.at(layers - 1)).is_err(),
            "the last row is normed"
        );
        let said = read.caution(&lab.model.card);
        assert!(
            said.contains("hidden states") && said.contains("left out"),
            "{said}"
        );
    }
    for path in files(layers - 1) {
        let said = lab
            .direction(path.to_str().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("a table of 7 rows") && said.contains("8 rows"),
            "{said}"
        );
    }
    // JSON says the site; it cannot make hidden states outputs of blocks.
    let beside = folder.0.path().join("axis.json");
    for (site, rows, found) in [
        ("resid_post", layers, "resid_post.0-7"),
        ("resid_pre", layers + 1, "resid_pre.0-7"),
        ("mlp_out", layers, "mlp_out.0-7"),
        ("resid_post", layers + 1, ""),
    ] {
        std::fs::write(&beside, format!(r#"{{"site": "{site}"}}"#)).unwrap();
        let path = &files(rows)[2];
        match lab.direction(path.to_str().unwrap()) {
            Ok(read) => assert_eq!(read.span(), found, "{site} {rows}"),
            Err(error) => {
                let said = error.to_string();
                assert!(
                    found.is_empty() && said.contains("a table of 9 rows of resid_post"),
                    "{said}"
                );
            }
        }
    }
    // In a dict from layer 0 on, one more than blocks are hidden states too.
    std::fs::remove_file(&beside).unwrap();
    let dict = (0..=layers)
        .map(|l| (Py::Int(l as i32), Py::Tensor(vec![width], vector(l, width))))
        .collect();
    let path = folder.file("dict.pt", &torch(&Py::Dict(dict)));
    let read = lab.direction(path.to_str().unwrap()).unwrap();
    assert_eq!(read.at(Site::ResidPost.at(3)).unwrap(), vector(4, width));
}

#[test]
fn what_is_no_direction_is_known_by_name() {
    let folder = Folder::new();
    let two = |a: &'static str, x: Vec<usize>, b: &'static str, y: Vec<usize>| {
        let of = |shape: &[usize]| vec![0.5; shape.iter().product()];
        let (p, q) = (of(&x), of(&y));
        torch(&Py::Dict(vec![
            (Py::Text(a), Py::Tensor(x, p)),
            (Py::Text(b), Py::Tensor(y, q)),
        ]))
    };
    for (bytes, word) in [
        (
            two("W_enc", vec![6, 40], "W_dec", vec![40, 6]),
            "D[\"W_dec\"][FEATURE]",
        ),
        (
            two("encoder.weight", vec![40, 6], "decoder.weight", vec![6, 40]),
            "D[\"decoder.weight\"][:, FEATURE]",
        ),
    ] {
        let said = error(&folder.file("sae.pt", &bytes));
        assert!(
            said.contains(word) && said.contains("40 features over 6"),
            "{said}"
        );
        assert!(said.contains("not read yet"), "{said}");
    }
    let rows = npy("<f4", false, &[6, 40], &f32s(&table(6, 40)), 1);
    let bytes = zip(&[("W_enc.npy", &rows), ("W_dec.npy", &rows)], true, None);
    assert!(error(&folder.file("params.npz", &bytes)).contains("dictionary"));
    // Capping thresholds of the assistant axis: a clamp with one bound.
    let vectors = |name: &'static str, n: usize, layer: i32| {
        let pairs = vec![
            (Py::Text("vector"), Py::Tensor(vec![128], vector(n, 128))),
            (Py::Text("layer"), Py::Int(layer)),
        ];
        (Py::Text(name), Py::Dict(pairs))
    };
    let cap = |name: &'static str, cap: Py| {
        Py::Dict(vec![
            (Py::Text("vector"), Py::Text(name)),
            (Py::Text("cap"), cap),
        ])
    };
    let experiment = |id: &'static str, caps: Vec<Py>| {
        Py::Dict(vec![
            (Py::Text("id"), Py::Text(id)),
            (Py::Text("interventions"), Py::List(caps)),
        ])
    };
    let config = Py::Dict(vec![
        (
            Py::Text("vectors"),
            Py::Dict(vec![vectors("axis_3", 1, 3), vectors("axis_5", 2, 5)]),
        ),
        (
            Py::Text("experiments"),
            Py::List(vec![
                experiment(
                    "layers_3:5-p0.25",
                    vec![
                        cap("axis_3", Py::Float(-12.5)),
                        cap("axis_5", Py::Tensor(vec![], vec![7.25])),
                    ],
                ),
                experiment("late", vec![cap("axis_5", Py::Int(3))]),
            ]),
        ),
    ]);
    let path = folder.file("capping_config.pt", &torch(&config));
    let said = error(&path);
    for word in [
        "capping configuration",
        "2 vectors",
        "layers_3:5-p0.25, late",
        "axis_3=-1000000..-12.5@resid_post.3",
        "=-1000000..7.25@resid_post.5",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let late = Direction::open(&format!("{}#late", path.display()))
        .unwrap_err()
        .to_string();
    assert!(
        late.contains("the experiment late is --edit 'clamp_along:")
            && late.contains("..3@resid_post.5"),
        "{late}"
    );
    // What is offered is what does it.
    let start = said.find("--edit '").unwrap() + 8;
    let line = &said[start..start + said[start..].find('\'').unwrap()];
    assert!(line.parse::<Edit>().is_ok(), "{line}");
    let read = Direction::open(&format!("{}#axis_5", path.display()))
        .unwrap()
        .unwrap();
    assert_eq!(
        (places(&read), &read.rows[0].1),
        (vec!["resid_post.5".to_string()], &vector(2, 128))
    );
    let out = written(&[
        "generate", "demo", "-p", "The king", "-n", "2", "--edit", line,
    ]);
    assert!(!out.is_empty());
}

#[test]
fn a_direction_of_length_zero_is_neither_made_nor_used() {
    let folder = Folder::new();
    let nothing = Direction {
        rows: vec![(Site::ResidPre.at(4), vec![0.0; 6])],
        origin: DirectionOrigin::default(),
    };
    for name in ["z.safetensors", "z.gguf", "z.pt", "z.f32"] {
        let path = folder.0.path().join(name);
        assert!(
            nothing
                .save(&path)
                .unwrap_err()
                .to_string()
                .contains("zero"),
            "{name}"
        );
        assert!(!path.exists(), "{name}");
    }
    // One layer without a vector among others is passed over.
    let mut some = nothing.clone();
    some.rows.push((Site::ResidPre.at(5), vec![1.0; 6]));
    assert!(some.at(Site::ResidPre.at(5)).is_ok());
    let said = some.at(Site::ResidPre.at(4)).unwrap_err().to_string();
    assert!(said.contains("zero"), "{said}");

    let list = |name: &str, text: &str| {
        folder
            .file(name, text.as_bytes())
            .to_str()
            .unwrap()
            .to_string()
    };
    let out = folder.0.path().join("d.safetensors");
    let out = out.to_str().unwrap();
    let make = |plus: &str, minus: &str, more: &[&str]| {
        outcome(
            &[
                &[
                    "direction",
                    "demo",
                    "--plus",
                    plus,
                    "--minus",
                    minus,
                    "--force",
                    "-o",
                    out,
                ][..],
                more,
            ]
            .concat(),
        )
    };
    let (a, b) = (
        list("a.txt", "The king\nThe queen of Spain\n"),
        list("b.txt", "The queen of Spain\nThe king\n"),
    );
    let other = list("c.txt", "The king\nThe lily\nThe cello\n");
    let ends = list("e.txt", "A big king\nOne old queen of Spain\n");
    for method in ["mean", "pca", "pca-diff", "icv"] {
        for (plus, minus) in [(&a, &a), (&a, &b)] {
            let (code, _, err) = make(plus, minus, &["--layer", "4", "--method", method]);
            assert_eq!(code, 2, "{method}: {err}");
            assert!(err.contains("the same on both sides"), "{err}");
        }
    }
    assert!(!Path::new(out).exists());
    // The last tokens are alike, so that what enters block 0 is.
    let (code, _, err) = make(&a, &ends, &["--layer", "0"]);
    assert!(code == 2 && err.contains("alike at resid_pre.0"), "{err}");
    let (code, _, err) = make(&a, &ends, &["--layer", "all"]);
    assert!(
        code == 0 && err.contains("left out because both lists are equal there: resid_pre.0"),
        "{err}"
    );
    let made = Direction::load(Path::new(out)).unwrap();
    assert!(made.rows.len() == 7 && made.rows.iter().all(|(_, v)| norm(v) > 0.1));
    let (code, _, err) = make(&a, &other, &["--layer", "4"]);
    assert!(
        code == 0 && err.contains("1 of the prompts are in both lists"),
        "{err}"
    );
    refused(
        &[
            "direction",
            "demo",
            "--combine",
            "mood - mood",
            "--force",
            "-o",
            out,
        ],
        2,
        &["cancel out"],
    );
    let address: Address = "resid_pre.4".parse().unwrap();
    assert_eq!(address, Site::ResidPre.at(4));
}

/// The words are those of the published lenses (`residual_spec.py`): what leaves a block, what enters it, and what is neither.
#[test]
fn a_jacobian_lens_is_of_the_place_that_its_word_means() {
    let folder = Folder::new();
    let lab = demo();
    let width = lab.model.card.d_model;
    let (post, pre) = (Site::ResidPost.at(3), Site::ResidPre.at(3));
    let lens = |point: Option<&'static str>, more: Vec<(Py, Py)>| {
        let mut provenance = more;
        if let Some(point) = point {
            provenance.push((Py::Text("capture_point"), Py::Text(point)));
        }
        let map = Py::Tensor(vec![width, width], vec![0.5; width * width]);
        let file = Py::Dict(vec![
            (Py::Text("J"), Py::Dict(vec![(Py::Int(3), map)])),
            (Py::Text("n_prompts"), Py::Int(4)),
            (Py::Text("provenance"), Py::Dict(provenance)),
        ]);
        let path = folder.file("lens.pt", &torch(&file));
        let read = LensFile::open(path.to_str().unwrap(), &lab.model);
        read.map(|l| [post, pre].map(|at| l.has_map(at).unwrap()))
            .map_err(|e| e.to_string())
    };
    assert_eq!(lens(None, vec![]).unwrap(), [true, false]);
    assert_eq!(lens(Some("block_output"), vec![]).unwrap(), [true, false]);
    assert_eq!(lens(Some("attn_in"), vec![]).unwrap(), [false, true]);
    for (point, word) in [
        ("attn_out", "what a block adds"),
        ("mlp_out", "what a block adds"),
        ("mlp_in", "resid_mid"),
        ("block_outputs", "not a known place"),
        ("Block_Output", "not a known place"),
        ("output", "not a known place"),
        ("", "not a known place"),
    ] {
        let said = lens(Some(point), vec![]).unwrap_err();
        assert!(said.contains(word), "{point}: {said}");
    }
    let reduce = |how: Py| {
        vec![
            (Py::Text("stream_reduce"), how),
            (Py::Text("stream_index"), Py::Int(2)),
        ]
    };
    for none in [Py::None, Py::Text("none")] {
        assert!(lens(Some("block_output"), reduce(none)).is_ok());
    }
    for how in ["mean", "sum", "select"] {
        let said = lens(Some("block_output"), reduce(Py::Text(how))).unwrap_err();
        assert!(said.contains(&format!("reduced by `{how}` 2")), "{said}");
    }
}

/// Whatever is wrong with a file, there is a sentence or a direction of finite numbers, and little memory.
#[test]
fn damage_to_what_people_bring_does_no_harm() {
    let folder = Folder::new();
    let array = npy("<f4", false, &[4, 6], &f32s(&table(4, 6)), 1);
    let row = npy("<f4", false, &[6], &f32s(&vector(1, 6)), 2);
    let tensors = |n: usize| (Py::Int(n as i32), Py::Tensor(vec![6], vector(n, 6)));
    let mut rng = StdRng::seed_from_u64(7);
    for (name, whole) in [
        ("x.npy", array.clone()),
        (
            "x.npz",
            zip(&[("4.npy", &row), ("b.npy", &array)], true, None),
        ),
        (
            "y.npz",
            zip(&[("4.npy", &row), ("7.npy", &row)], false, None),
        ),
        ("x.pt", torch(&Py::Dict(vec![tensors(3), tensors(5)]))),
        ("y.pt", torch(&Py::List(vec![tensors(3).1, tensors(5).1]))),
    ] {
        for _ in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..3) {
                let at = rng.random_range(0..bytes.len());
                match rng.random_range(0..4) {
                    0 => bytes[at] = rng.random(),
                    1 => bytes[at] ^= 1 << rng.random_range(0..8),
                    2 => bytes.truncate(at.max(1)),
                    _ => {
                        let end = (at + 4).min(bytes.len());
                        bytes[at..end].fill(0xff);
                    }
                }
            }
            let path = folder.file(name, &bytes);
            let mut read = Err(String::new());
            let peak = peak_of(|| read = load(&path));
            assert!(peak < (2 << 20) + 64 * bytes.len(), "{name}: {peak} bytes");
            if let Ok(direction) = read {
                assert!(
                    direction
                        .rows
                        .iter()
                        .flat_map(|(_, v)| v)
                        .all(|v| v.is_finite()),
                    "{name}"
                );
            }
        }
    }
}
