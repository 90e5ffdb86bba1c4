//! Sentences of NMEA 0183: address, fields, checksum, and positions in degrees. Pure text.

use crate::config::instrument::NmeaPart;
use crate::device::serial::field::FieldError;

/// A sentence whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence<'a> {
    /// The address first.
    fields: Vec<&'a str>,
}

impl<'a> Sentence<'a> {
    /// The last one in a line. None where there is none, or where it is not as its checksum says.
    pub fn parse(line: &'a str) -> Option<Self> {
        let begin = line.rfind(['$', '!'])?;
        let (covered, sum) = line.get(begin + 1..)?.split_once('*')?;
        let sum = sum.trim_end();
        let wanted = covered.bytes().fold(0, |sum, byte| sum ^ byte);
        let is_right = sum.len() == 2
            && sum.bytes().all(|byte| byte.is_ascii_hexdigit())
            && u8::from_str_radix(sum, 16) == Ok(wanted);
        let fields: Vec<&str> = covered.split(',').collect();
        (is_right && fields.first().is_some_and(|address| !address.is_empty())).then_some(Self { fields })
    }

    /// `RMC` is that of any talker.
    pub fn is(&self, sentence: &str) -> bool {
        let address = self.fields.first().copied().unwrap_or_default();
        address == sentence || (address.len() == 5 && sentence.len() == 3 && address.ends_with(sentence))
    }

    /// The field as text.
    pub fn part(&self, part: NmeaPart) -> Result<String, FieldError> {
        match part {
            NmeaPart::Field(at) => self.fields.get(at).map(ToString::to_string).ok_or(FieldError::Missing),
            NmeaPart::Latitude => self.degrees(0, ('N', 'S'), 90.0),
            NmeaPart::Longitude => self.degrees(2, ('E', 'W'), 180.0),
        }
    }

    fn field(&self, at: usize) -> &'a str {
        self.fields.get(at).copied().unwrap_or_default()
    }

    /// `behind` the first of the sentence's four fields of a position.
    fn degrees(&self, behind: usize, (plus, minus): (char, char), max: f64) -> Result<String, FieldError> {
        let (position, has_fix) = if self.is("GGA") {
            (2, !matches!(self.field(6), "" | "0"))
        } else if self.is("RMC") {
            (3, self.field(2) == "A")
        } else if self.is("GLL") {
            (1, self.field(6) == "A")
        } else {
            return Err(FieldError::Missing);
        };
        if !has_fix {
            return Err(FieldError::NoFix);
        }
        let (number, side) = (self.field(position + behind), self.field(position + behind + 1));
        let degrees = degrees_of(number).filter(|degrees| *degrees <= max).ok_or(FieldError::NotNumber)?;
        match side.chars().next() {
            Some(char) if char == plus => Ok(format!("{degrees:.7}")),
            Some(char) if char == minus => Ok(format!("{:.7}", -degrees)),
            _ => Err(FieldError::NotNumber),
        }
    }
}

/// `4807.038` is 48 degrees and 7.038 minutes.
fn degrees_of(text: &str) -> Option<f64> {
    let whole = text.split('.').next().filter(|whole| (3..=5).contains(&whole.len()))?;
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let (degrees, minutes) = text.split_at_checked(whole.len() - 2)?;
    let (degrees, minutes) = (degrees.parse::<f64>().ok()?, minutes.parse::<f64>().ok()?);
    (minutes < 60.0).then_some(degrees + minutes / 60.0)
}

#[cfg(test)]
mod tests {
    use super::Sentence;
    use crate::config::instrument::NmeaPart;
    use crate::device::serial::field::FieldError;

    const GGA: &str = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47";
    const RMC: &str = "$GPRMC,123519,A,4807.038,N,01131.000,W,022.4,084.4,230394,003.1,W*78";

    #[test]
    fn a_sentence_is_only_one_with_its_checksum() {
        for line in [GGA, "noise$GPGGA,1235", "$GPGGA,1235*00", "$GPGGA,1*5", "$*00", "", "$GPGGA,1*+A"] {
            assert_eq!(Sentence::parse(line).is_some(), line == GGA, "{line}");
        }
        let behind_half_of_another = format!("$GPGGA,123519,48{RMC}");
        assert!(Sentence::parse(&behind_half_of_another).is_some_and(|sentence| sentence.is("RMC")));
        assert_eq!(Sentence::parse(&GGA.replace("545", "546")), None);
    }

    #[test]
    fn fields_and_positions_are_read_where_they_stand() {
        let (gga, rmc) =
            (Sentence::parse(GGA).expect("a sentence"), Sentence::parse(RMC).expect("a sentence"));
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(gga.part(NmeaPart::Field(9)), text("545.4"));
        assert_eq!(gga.part(NmeaPart::Field(14)), text(""));
        assert_eq!(gga.part(NmeaPart::Field(15)), Err(FieldError::Missing));
        assert_eq!(gga.part(NmeaPart::Latitude), text("48.1173000"));
        assert_eq!(gga.part(NmeaPart::Longitude), text("11.5166667"));
        assert_eq!(rmc.part(NmeaPart::Longitude), text("-11.5166667"));
        for (sentence, is) in [("GGA", true), ("GPGGA", true), ("GNGGA", false), ("GSA", false), ("A", false)]
        {
            assert_eq!(gga.is(sentence), is, "{sentence}");
        }
    }

    /// Some receivers go on saying where they were.
    #[test]
    fn without_a_fix_there_is_no_position() {
        let sum = |body: &str| format!("${body}*{:02X}", body.bytes().fold(0, |sum, byte| sum ^ byte));
        let cases = [
            ("GPRMC,123519,V,4807.038,N,01131.000,E,,,230394,,", FieldError::NoFix),
            ("GPGGA,123519,4807.038,N,01131.000,E,0,,,,,,,,", FieldError::NoFix),
            ("GPGGA,123519,,,,,0,,,,,,,,", FieldError::NoFix),
            ("GPRMC,123519,A,4867.038,N,01131.000,E,,,230394,,", FieldError::NotNumber),
            ("GPRMC,123519,A,9107.038,N,01131.000,E,,,230394,,", FieldError::NotNumber),
            ("GPRMC,123519,A,4807.038,X,01131.000,E,,,230394,,", FieldError::NotNumber),
            ("GPRMC,123519,A,-807.038,N,01131.000,E,,,230394,,", FieldError::NotNumber),
            ("GPRMC,123519,A", FieldError::NotNumber),
        ];
        for (body, error) in cases {
            let line = sum(body);
            let sentence = Sentence::parse(&line).expect("a sentence");
            assert_eq!(sentence.part(NmeaPart::Latitude), Err(error), "{body}");
        }
    }
}
