//! Which kind of quantity a unit stands for, in Home Assistant's words. A table of facts: never guesses where a unit is
//! used for several quantities, unless the point's name says which.

/// How Home Assistant keeps statistics of a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateClass {
    Measurement,
    /// A meter's count: it grows, and may begin anew.
    TotalIncreasing,
}

impl StateClass {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Measurement => "measurement",
            Self::TotalIncreasing => "total_increasing",
        }
    }
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantity<'a> {
    pub(super) device_class: Option<&'static str>,
    pub(super) state_class: StateClass,
    /// As Home Assistant spells it.
    pub(super) unit: Option<&'a str>,
}

/// Other spellings of units that Home Assistant knows by one.
const SPELLINGS: [(&str, &str); 16] = [
    ("VAr", "var"),
    ("kVAr", "kvar"),
    ("VAR", "var"),
    ("kVAR", "kvar"),
    ("VArh", "varh"),
    ("kVArh", "kvarh"),
    ("kVARh", "kvarh"),
    ("m3", "m³"),
    ("m3/h", "m³/h"),
    ("l", "L"),
    ("l/min", "L/min"),
    ("l/h", "L/h"),
    ("W/m2", "W/m²"),
    ("µA", "μA"),
    ("µV", "μV"),
    ("µS/cm", "μS/cm"),
];

const MEASURED: [(&str, &[&str]); 15] = [
    ("apparent_power", &["mVA", "VA", "kVA"]),
    ("conductivity", &["S/cm", "mS/cm", "μS/cm"]),
    ("current", &["A", "mA", "μA"]),
    ("frequency", &["Hz", "mHz", "kHz", "MHz", "GHz"]),
    ("illuminance", &["lx"]),
    ("irradiance", &["W/m²"]),
    ("power", &["W", "mW", "kW", "MW", "GW", "TW"]),
    ("pressure", &["Pa", "mPa", "hPa", "kPa", "bar", "mbar", "cbar", "psi", "mmHg", "inHg"]),
    ("reactive_power", &["var", "mvar", "kvar"]),
    ("signal_strength", &["dBm"]),
    ("speed", &["m/s", "km/h", "mm/s", "mph", "ft/s"]),
    ("temperature", &["°C", "°F", "K"]),
    ("voltage", &["V", "mV", "μV", "kV", "MV"]),
    ("volume_flow_rate", &["m³/h", "m³/min", "m³/s", "L/h", "L/min", "L/s"]),
    ("weight", &["kg", "g", "mg", "μg", "oz", "lb"]),
];
const COUNTED: [(&str, &[&str]); 2] = [
    ("energy", &["kWh", "Wh", "mWh", "MWh", "GWh", "TWh", "J", "kJ", "MJ", "GJ", "kcal", "Mcal", "Gcal"]),
    ("reactive_energy", &["varh", "kvarh"]),
];
/// Units that say too little by themselves: the quantity is told by a word of the point's name.
const NAMED: [(&str, &[&str], &str, StateClass); 9] = [
    ("%", &["humidity", "rh"], "humidity", StateClass::Measurement),
    ("%", &["battery", "soc"], "battery", StateClass::Measurement),
    ("%", &["moisture"], "moisture", StateClass::Measurement),
    ("m³", &["water"], "water", StateClass::TotalIncreasing),
    ("L", &["water"], "water", StateClass::TotalIncreasing),
    ("m³", &["gas"], "gas", StateClass::TotalIncreasing),
    ("L", &["gas"], "gas", StateClass::TotalIncreasing),
    ("ppm", &["co2"], "carbon_dioxide", StateClass::Measurement),
    ("", &["pf", "cosphi"], "power_factor", StateClass::Measurement),
];

pub(super) fn quantity<'a>(name: &str, unit: Option<&'a str>) -> Quantity<'a> {
    let spelled = unit.map(|unit| {
        let known = SPELLINGS.iter().find(|(written, _)| *written == unit);
        known.map_or(unit, |(_, spelled)| spelled)
    });
    let has = |table: &[(&'static str, &[&str])]| {
        let found = table.iter().find(|(_, units)| spelled.is_some_and(|unit| units.contains(&unit)));
        found.map(|(class, _)| *class)
    };
    let (device_class, state_class) = if let Some(class) = has(&MEASURED) {
        (Some(class), StateClass::Measurement)
    } else if let Some(class) = has(&COUNTED) {
        (Some(class), StateClass::TotalIncreasing)
    } else {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split(['-', '_', '.']).collect();
        let is_named = |named: &[&str]| named.iter().any(|word| words.contains(word));
        let unit = spelled.unwrap_or_default();
        let found = NAMED.iter().find(|(of, named, ..)| *of == unit && is_named(named));
        found.map_or((None, StateClass::Measurement), |(_, _, class, state)| (Some(*class), *state))
    };
    Quantity { device_class, state_class, unit: spelled }
}

#[cfg(test)]
mod tests {
    use super::{Quantity, StateClass, quantity};

    #[test]
    fn units_say_what_is_measured_and_names_help_where_they_do_not() {
        use StateClass::{Measurement, TotalIncreasing};
        let cases = [
            ("voltage", Some("V"), Some("voltage"), Measurement, Some("V")),
            ("l1", Some("A"), Some("current"), Measurement, Some("A")),
            ("p", Some("kW"), Some("power"), Measurement, Some("kW")),
            ("import", Some("kWh"), Some("energy"), TotalIncreasing, Some("kWh")),
            ("t", Some("°C"), Some("temperature"), Measurement, Some("°C")),
            ("f", Some("Hz"), Some("frequency"), Measurement, Some("Hz")),
            ("s", Some("VA"), Some("apparent_power"), Measurement, Some("VA")),
            ("q", Some("kVAr"), Some("reactive_power"), Measurement, Some("kvar")),
            ("q", Some("kVArh"), Some("reactive_energy"), TotalIncreasing, Some("kvarh")),
            ("load", Some("%"), None, Measurement, Some("%")),
            ("room-humidity", Some("%"), Some("humidity"), Measurement, Some("%")),
            ("humidityless", Some("%"), None, Measurement, Some("%")),
            ("Battery_SOC", Some("%"), Some("battery"), Measurement, Some("%")),
            ("tank", Some("m3"), None, Measurement, Some("m³")),
            ("water_total", Some("m3"), Some("water"), TotalIncreasing, Some("m³")),
            ("pf", None, Some("power_factor"), Measurement, None),
            ("count", None, None, Measurement, None),
            ("odd", Some("furlong"), None, Measurement, Some("furlong")),
        ];
        for (name, unit, device_class, state_class, spelled) in cases {
            let expected = Quantity { device_class, state_class, unit: spelled };
            assert_eq!(quantity(name, unit), expected, "{name} {unit:?}");
        }
    }
}
