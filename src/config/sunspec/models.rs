//! The `SunSpec` information models that are known by name: where in a model a point lies, its type, its scale factor
//! and its unit. Figures from the models that the `SunSpec` Alliance publishes; never looks at a device.

use crate::config::model::ValueType;

/// A model by its number.
#[derive(Debug, PartialEq, Eq)]
pub struct Model {
    pub number: u16,
    /// In front of the modules.
    pub points: &'static [Field],
    /// Empty: the model has no modules.
    pub module: &'static [Field],
    /// Registers without modules, and those of one module.
    pub lengths: (u16, u16),
}

/// A point of a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// Registers behind the header of the model, or behind the start of the module.
    pub offset: u16,
    pub kind: Kind,
    /// The point in front of the modules that says with which power of ten this one is multiplied.
    pub scale: Option<&'static str>,
    pub unit: Option<&'static str>,
}

/// The types of the `SunSpec` information model specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int16,
    Uint16,
    Uint32,
    Acc32,
    Enum16,
    Bitfield32,
    Float32,
    Sunssf,
    String { registers: u16 },
}

impl Kind {
    pub const fn value_type(self) -> ValueType {
        match self {
            Self::Int16 | Self::Sunssf => ValueType::I16,
            Self::Uint16 | Self::Enum16 => ValueType::U16,
            Self::Uint32 | Self::Acc32 | Self::Bitfield32 => ValueType::U32,
            Self::Float32 => ValueType::F32,
            Self::String { registers } => ValueType::String { registers },
        }
    }

    /// What stands for `not implemented`. NaN and empty text need no word.
    pub const fn not_implemented(self) -> Option<u64> {
        match self {
            Self::Int16 | Self::Sunssf => Some(0x8000),
            Self::Uint16 | Self::Enum16 => Some(0xFFFF),
            Self::Uint32 | Self::Bitfield32 => Some(0xFFFF_FFFF),
            Self::Acc32 => Some(0),
            Self::Float32 | Self::String { .. } => None,
        }
    }
}

impl Model {
    /// Of the fixed part, or of a module.
    pub fn field(&self, name: &str, is_in_module: bool) -> Option<&'static Field> {
        let fields = if is_in_module { self.module } else { self.points };
        fields.iter().find(|field| field.name == name)
    }
}

pub fn model(number: u16) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.number == number)
}

pub const MODELS: &[Model] = &[
    Model { number: 1, points: COMMON, module: &[], lengths: (66, 0) },
    Model { number: 101, points: INVERTER, module: &[], lengths: (50, 0) },
    Model { number: 102, points: INVERTER, module: &[], lengths: (50, 0) },
    Model { number: 103, points: INVERTER, module: &[], lengths: (50, 0) },
    Model { number: 111, points: INVERTER_FLOAT, module: &[], lengths: (60, 0) },
    Model { number: 112, points: INVERTER_FLOAT, module: &[], lengths: (60, 0) },
    Model { number: 113, points: INVERTER_FLOAT, module: &[], lengths: (60, 0) },
    Model { number: 160, points: MPPT, module: MPPT_MODULE, lengths: (8, 20) },
    Model { number: 802, points: BATTERY, module: &[], lengths: (62, 0) },
];

const fn plain(name: &'static str, offset: u16, kind: Kind) -> Field {
    Field { name, offset, kind, scale: None, unit: None }
}

const fn of_unit(name: &'static str, offset: u16, kind: Kind, unit: &'static str) -> Field {
    Field { name, offset, kind, scale: None, unit: Some(unit) }
}

const fn scaled(
    name: &'static str,
    offset: u16,
    kind: Kind,
    scale: &'static str,
    unit: &'static str,
) -> Field {
    Field { name, offset, kind, scale: Some(scale), unit: Some(unit) }
}

const fn factor(name: &'static str, offset: u16) -> Field {
    plain(name, offset, Kind::Sunssf)
}

const fn text(name: &'static str, offset: u16, registers: u16) -> Field {
    plain(name, offset, Kind::String { registers })
}

const COMMON: &[Field] = &[
    text("Mn", 0, 16),
    text("Md", 16, 16),
    text("Opt", 32, 8),
    text("Vr", 40, 8),
    text("SN", 48, 16),
    plain("DA", 64, Kind::Uint16),
];

const INVERTER: &[Field] = &[
    scaled("A", 0, Kind::Uint16, "A_SF", "A"),
    scaled("AphA", 1, Kind::Uint16, "A_SF", "A"),
    scaled("AphB", 2, Kind::Uint16, "A_SF", "A"),
    scaled("AphC", 3, Kind::Uint16, "A_SF", "A"),
    factor("A_SF", 4),
    scaled("PPVphAB", 5, Kind::Uint16, "V_SF", "V"),
    scaled("PPVphBC", 6, Kind::Uint16, "V_SF", "V"),
    scaled("PPVphCA", 7, Kind::Uint16, "V_SF", "V"),
    scaled("PhVphA", 8, Kind::Uint16, "V_SF", "V"),
    scaled("PhVphB", 9, Kind::Uint16, "V_SF", "V"),
    scaled("PhVphC", 10, Kind::Uint16, "V_SF", "V"),
    factor("V_SF", 11),
    scaled("W", 12, Kind::Int16, "W_SF", "W"),
    factor("W_SF", 13),
    scaled("Hz", 14, Kind::Uint16, "Hz_SF", "Hz"),
    factor("Hz_SF", 15),
    scaled("VA", 16, Kind::Int16, "VA_SF", "VA"),
    factor("VA_SF", 17),
    scaled("VAr", 18, Kind::Int16, "VAr_SF", "var"),
    factor("VAr_SF", 19),
    scaled("PF", 20, Kind::Int16, "PF_SF", "%"),
    factor("PF_SF", 21),
    scaled("WH", 22, Kind::Acc32, "WH_SF", "Wh"),
    factor("WH_SF", 24),
    scaled("DCA", 25, Kind::Uint16, "DCA_SF", "A"),
    factor("DCA_SF", 26),
    scaled("DCV", 27, Kind::Uint16, "DCV_SF", "V"),
    factor("DCV_SF", 28),
    scaled("DCW", 29, Kind::Int16, "DCW_SF", "W"),
    factor("DCW_SF", 30),
    scaled("TmpCab", 31, Kind::Int16, "Tmp_SF", "°C"),
    scaled("TmpSnk", 32, Kind::Int16, "Tmp_SF", "°C"),
    scaled("TmpTrns", 33, Kind::Int16, "Tmp_SF", "°C"),
    scaled("TmpOt", 34, Kind::Int16, "Tmp_SF", "°C"),
    factor("Tmp_SF", 35),
    plain("St", 36, Kind::Enum16),
    plain("StVnd", 37, Kind::Enum16),
    plain("Evt1", 38, Kind::Bitfield32),
    plain("Evt2", 40, Kind::Bitfield32),
    plain("EvtVnd1", 42, Kind::Bitfield32),
    plain("EvtVnd2", 44, Kind::Bitfield32),
    plain("EvtVnd3", 46, Kind::Bitfield32),
    plain("EvtVnd4", 48, Kind::Bitfield32),
];

const INVERTER_FLOAT: &[Field] = &[
    of_unit("A", 0, Kind::Float32, "A"),
    of_unit("AphA", 2, Kind::Float32, "A"),
    of_unit("AphB", 4, Kind::Float32, "A"),
    of_unit("AphC", 6, Kind::Float32, "A"),
    of_unit("PPVphAB", 8, Kind::Float32, "V"),
    of_unit("PPVphBC", 10, Kind::Float32, "V"),
    of_unit("PPVphCA", 12, Kind::Float32, "V"),
    of_unit("PhVphA", 14, Kind::Float32, "V"),
    of_unit("PhVphB", 16, Kind::Float32, "V"),
    of_unit("PhVphC", 18, Kind::Float32, "V"),
    of_unit("W", 20, Kind::Float32, "W"),
    of_unit("Hz", 22, Kind::Float32, "Hz"),
    of_unit("VA", 24, Kind::Float32, "VA"),
    of_unit("VAr", 26, Kind::Float32, "var"),
    of_unit("PF", 28, Kind::Float32, "%"),
    of_unit("WH", 30, Kind::Float32, "Wh"),
    of_unit("DCA", 32, Kind::Float32, "A"),
    of_unit("DCV", 34, Kind::Float32, "V"),
    of_unit("DCW", 36, Kind::Float32, "W"),
    of_unit("TmpCab", 38, Kind::Float32, "°C"),
    of_unit("TmpSnk", 40, Kind::Float32, "°C"),
    of_unit("TmpTrns", 42, Kind::Float32, "°C"),
    of_unit("TmpOt", 44, Kind::Float32, "°C"),
    plain("St", 46, Kind::Enum16),
    plain("StVnd", 47, Kind::Enum16),
    plain("Evt1", 48, Kind::Bitfield32),
    plain("Evt2", 50, Kind::Bitfield32),
    plain("EvtVnd1", 52, Kind::Bitfield32),
    plain("EvtVnd2", 54, Kind::Bitfield32),
    plain("EvtVnd3", 56, Kind::Bitfield32),
    plain("EvtVnd4", 58, Kind::Bitfield32),
];

const MPPT: &[Field] = &[
    factor("DCA_SF", 0),
    factor("DCV_SF", 1),
    factor("DCW_SF", 2),
    factor("DCWH_SF", 3),
    plain("Evt", 4, Kind::Bitfield32),
    plain("N", 6, Kind::Uint16),
    plain("TmsPer", 7, Kind::Uint16),
];

const MPPT_MODULE: &[Field] = &[
    plain("ID", 0, Kind::Uint16),
    text("IDStr", 1, 8),
    scaled("DCA", 9, Kind::Uint16, "DCA_SF", "A"),
    scaled("DCV", 10, Kind::Uint16, "DCV_SF", "V"),
    scaled("DCW", 11, Kind::Uint16, "DCW_SF", "W"),
    scaled("DCWH", 12, Kind::Acc32, "DCWH_SF", "Wh"),
    of_unit("Tms", 14, Kind::Uint32, "s"),
    of_unit("Tmp", 16, Kind::Int16, "°C"),
    plain("DCSt", 17, Kind::Enum16),
    plain("DCEvt", 18, Kind::Bitfield32),
];

const BATTERY: &[Field] = &[
    scaled("AHRtg", 0, Kind::Uint16, "AHRtg_SF", "Ah"),
    scaled("WHRtg", 1, Kind::Uint16, "WHRtg_SF", "Wh"),
    scaled("WChaRteMax", 2, Kind::Uint16, "WChaDisChaMax_SF", "W"),
    scaled("WDisChaRteMax", 3, Kind::Uint16, "WChaDisChaMax_SF", "W"),
    scaled("DisChaRte", 4, Kind::Uint16, "DisChaRte_SF", "%"),
    scaled("SoCMax", 5, Kind::Uint16, "SoC_SF", "%"),
    scaled("SoCMin", 6, Kind::Uint16, "SoC_SF", "%"),
    scaled("SocRsvMax", 7, Kind::Uint16, "SoC_SF", "%"),
    scaled("SoCRsvMin", 8, Kind::Uint16, "SoC_SF", "%"),
    scaled("SoC", 9, Kind::Uint16, "SoC_SF", "%"),
    scaled("DoD", 10, Kind::Uint16, "DoD_SF", "%"),
    scaled("SoH", 11, Kind::Uint16, "SoH_SF", "%"),
    plain("NCyc", 12, Kind::Uint32),
    plain("ChaSt", 14, Kind::Enum16),
    plain("LocRemCtl", 15, Kind::Enum16),
    plain("Hb", 16, Kind::Uint16),
    plain("CtrlHb", 17, Kind::Uint16),
    plain("AlmRst", 18, Kind::Uint16),
    plain("Typ", 19, Kind::Enum16),
    plain("State", 20, Kind::Enum16),
    plain("StateVnd", 21, Kind::Enum16),
    plain("WarrDt", 22, Kind::Uint32),
    plain("Evt1", 24, Kind::Bitfield32),
    plain("Evt2", 26, Kind::Bitfield32),
    plain("EvtVnd1", 28, Kind::Bitfield32),
    plain("EvtVnd2", 30, Kind::Bitfield32),
    scaled("V", 32, Kind::Uint16, "V_SF", "V"),
    scaled("VMax", 33, Kind::Uint16, "V_SF", "V"),
    scaled("VMin", 34, Kind::Uint16, "V_SF", "V"),
    scaled("CellVMax", 35, Kind::Uint16, "CellV_SF", "V"),
    plain("CellVMaxStr", 36, Kind::Uint16),
    plain("CellVMaxMod", 37, Kind::Uint16),
    scaled("CellVMin", 38, Kind::Uint16, "CellV_SF", "V"),
    plain("CellVMinStr", 39, Kind::Uint16),
    plain("CellVMinMod", 40, Kind::Uint16),
    scaled("CellVAvg", 41, Kind::Uint16, "CellV_SF", "V"),
    scaled("A", 42, Kind::Int16, "A_SF", "A"),
    scaled("AChaMax", 43, Kind::Uint16, "AMax_SF", "A"),
    scaled("ADisChaMax", 44, Kind::Uint16, "AMax_SF", "A"),
    scaled("W", 45, Kind::Int16, "W_SF", "W"),
    plain("ReqInvState", 46, Kind::Enum16),
    scaled("ReqW", 47, Kind::Int16, "W_SF", "W"),
    plain("SetOp", 48, Kind::Enum16),
    plain("SetInvState", 49, Kind::Enum16),
    factor("AHRtg_SF", 50),
    factor("WHRtg_SF", 51),
    factor("WChaDisChaMax_SF", 52),
    factor("DisChaRte_SF", 53),
    factor("SoC_SF", 54),
    factor("DoD_SF", 55),
    factor("SoH_SF", 56),
    factor("V_SF", 57),
    factor("CellV_SF", 58),
    factor("A_SF", 59),
    factor("AMax_SF", 60),
    factor("W_SF", 61),
];

#[cfg(test)]
mod tests {
    use super::{Kind, MODELS};

    /// The points lie one behind the other, within the length of their model, and each factor is there.
    #[test]
    fn the_tables_hold_together() {
        for model in MODELS {
            for (fields, length) in [(model.points, model.lengths.0), (model.module, model.lengths.1)] {
                let mut end = 0;
                for field in fields {
                    assert!(field.offset >= end, "{} {}", model.number, field.name);
                    end = field.offset + field.kind.value_type().registers();
                    if let Some(scale) = field.scale {
                        let factor = model.field(scale, false).expect("in the same model");
                        assert_eq!(factor.kind, Kind::Sunssf, "{} {}", model.number, field.name);
                    }
                }
                assert!(end <= length, "{}: {end} of {length}", model.number);
            }
        }
        assert!(MODELS.is_sorted_by_key(|model| model.number));
    }
}
