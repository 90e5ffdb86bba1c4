//! One line of separated values (RFC 4180 without line breaks in quotes). Pure text.

/// The fields in their order; None where a quote is not closed or stands in the midst of a field.
pub fn fields(line: &str, separator: char) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, behind) = next_field(rest, separator)?;
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return Some(fields),
        }
    }
}

/// A field, and what follows its separator; None: it was the last one.
fn next_field(text: &str, separator: char) -> Option<(String, Option<&str>)> {
    let blank = |char: char| char == ' ' && separator != ' ';
    let Some(mut inner) = text.trim_start_matches(blank).strip_prefix('"') else {
        let (field, behind) =
            text.split_once(separator).map_or((text, None), |(field, behind)| (field, Some(behind)));
        let field = field.trim_matches(blank);
        return (!field.contains('"')).then(|| (field.to_owned(), behind));
    };
    let mut field = String::new();
    loop {
        let (part, behind) = inner.split_once('"')?;
        field.push_str(part);
        if let Some(doubled) = behind.strip_prefix('"') {
            field.push('"');
            inner = doubled;
            continue;
        }
        let behind = behind.trim_start_matches(blank);
        return match behind.strip_prefix(separator) {
            Some(next) => Some((field, Some(next))),
            None => behind.is_empty().then_some((field, None)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn lines_fall_apart_at_their_separators() {
        let cases: [(&str, char, Option<&[&str]>); 12] = [
            ("1,2,3", ',', Some(&["1", "2", "3"])),
            (" 1 , 2 ,3 ", ',', Some(&["1", "2", "3"])),
            ("1,,", ',', Some(&["1", "", ""])),
            ("", ',', Some(&[""])),
            ("1\t 2\t3", '\t', Some(&["1", "2", "3"])),
            ("1 2  3", ' ', Some(&["1", "2", "", "3"])),
            ("\"a,b\",\"c\"\"d\",e", ',', Some(&["a,b", "c\"d", "e"])),
            ("\"\",1", ',', Some(&["", "1"])),
            ("1,\"a\" ,2", ',', Some(&["1", "a", "2"])),
            ("1,\"a", ',', None),
            ("1,\"a\"b,2", ',', None),
            ("1,a\"b,2", ',', None),
        ];
        for (line, separator, expected) in cases {
            let found = fields(line, separator);
            let expected = expected.map(|fields| fields.iter().map(ToString::to_string).collect());
            assert_eq!(found, expected, "{line:?}");
        }
    }
}
