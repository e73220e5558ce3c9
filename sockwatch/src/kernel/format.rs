//! What tracefs says of a tracepoint's record: where each field lies in it. Kernels move fields between versions, and a
//! kernel without BTF describes its records nowhere else.

use std::{fs, path::Path};

use super::tracefs;

/// A tracepoint's format file, taken apart.
#[derive(Debug, Default)]
pub struct Format {
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    offset: u32,
    size: u32,
}

impl Format {
    /// Reads a tracepoint's format; `None` where the kernel has no such tracepoint, or tracefs is not mounted.
    pub fn of(category: &str, name: &str) -> Option<Self> {
        let events = Path::new(tracefs::mounted()?).join("events");
        let text = fs::read_to_string(events.join(category).join(name).join("format")).ok()?;
        Some(Self::parse(&text))
    }

    /// Takes a format file's text apart; lines that are no fields are left out.
    pub fn parse(text: &str) -> Self {
        Self { fields: text.lines().filter_map(field).collect() }
    }

    /// Where the field of this name lies, if it has this size.
    pub fn offset(&self, name: &str, size: u32) -> Option<u32> {
        self.fields.iter().find(|field| field.name == name && field.size == size).map(|field| field.offset)
    }
}

/// `field:__u8 saddr_v6[16]; offset:40; size:16; signed:0;`
fn field(line: &str) -> Option<Field> {
    let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
    let declaration = parts.next()?;
    let mut number = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix(':')?.parse().ok();
    let (offset, size) = (number("offset")?, number("size")?);
    let name = declaration.split('[').next()?.rsplit([' ', '*']).next()?;
    Some(Field { name: name.to_owned(), offset, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "name: inet_sock_set_state
ID: 2287
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:const void * skaddr;	offset:8;	size:8;	signed:0;
	field:int oldstate;	offset:16;	size:4;	signed:1;
	field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;
	field:struct sockaddr *upeer_sockaddr;	offset:24;	size:8;	signed:0;

print fmt: \"family=%s offset:1; size:2;\", REC->family
";

    #[test]
    fn fields_are_found_by_name_and_size() {
        let format = Format::parse(TEXT);
        assert_eq!(format.fields.len(), 5);
        assert_eq!(format.offset("skaddr", 8), Some(8));
        assert_eq!(format.offset("oldstate", 4), Some(16));
        assert_eq!(format.offset("saddr_v6", 16), Some(40));
        assert_eq!(format.offset("upeer_sockaddr", 8), Some(24));
        assert_eq!(format.offset("oldstate", 1), None, "another size is another field");
        assert_eq!(format.offset("family", 2), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\t?field:[a-z _*\\[\\]0-9;:]{0,40}(offset:[0-9]{0,12};)?\n?){0,4}") {
            let _ = Format::parse(&text).offset("a", 1);
        }
    }
}
