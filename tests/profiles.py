"""Writes tests/profiles/*.txt: what the registers of each device with a profile hold, and what its points then say.

    python3 tests/profiles.py             # writes the dumps
    python3 tests/profiles.py --check     # exit code 1: they are not what this script says

Registers are numbered here as the manuals number them and packed with `struct`: neither the profiles nor the gateway's
own decoding have a part in it. Figures of the manuals' own examples are marked so.
"""

import json
import struct
import sys
from pathlib import Path

FOLDER = Path(__file__).with_name("profiles")
HEADER = "# {title}\n# Written by tests/profiles.py; not to be changed by hand.\n"


def words(packed):
    return list(struct.unpack(f">{len(packed) // 2}H", packed))


def f32(value):
    return words(struct.pack(">f", value))


def i64(value):
    return words(struct.pack(">q", value))


def u32(value):
    return words(struct.pack(">I", value))


def i16(value):
    return words(struct.pack(">h", value))


def u16(value):
    return words(struct.pack(">H", value))


def low_word_first(packed):
    return list(reversed(packed))


def text(value, registers):
    return words(value.encode().ljust(registers * 2, b"\0"))


class Dump:
    """`base` is what the manual's number of the first register is."""

    def __init__(self, name, title, *, table="holding", base=0):
        self.name, self.title, self.table, self.base = name, title, table, base
        self.registers, self.points = [], []

    def hold(self, number, held):
        self.registers.append((self.table, number - self.base, held))
        return self

    def point(self, name, number, held, value, unit=None):
        self.hold(number, held)
        return self.say(name, value, unit)

    def say(self, name, value, unit=None):
        self.points.append((name, value if isinstance(value, Said) else Said(json.dumps(value, ensure_ascii=False)), unit))
        return self

    def __str__(self):
        lines = [HEADER.format(title=self.title)]
        for table, address, held in self.registers:
            form = "{}" if table in ("coil", "discrete") else "{:04X}"
            lines.append(f"{table} {address} {' '.join(form.format(int(word)) for word in held)}\n")
        for name, value, unit in self.points:
            lines.append(f"point {name} | {value} | {unit or ''}".rstrip() + "\n")
        return "".join(lines)


class Said(str):
    """What is no JSON value: `bad: …`, or `absent`."""


ABSENT = Said("absent")


def not_implemented(bits, registers=1):
    return Said(f"bad: 0x{bits:0{registers * 4}X} stands for no value")


def eastron(name, title, entries):
    dump = Dump(name, title, table="input", base=30001)
    for point, register, value, unit in entries:
        dump.point(point, register, f32(value), value, unit)
    return dump


def sdm120():
    return eastron("eastron-sdm120", "SDM120: one phase with a load of 1.2 kW", [
        ("voltage", 30001, 229.4, "V"), ("current", 30007, 5.312, "A"), ("power", 30013, 1204.5, "W"),
        ("apparent_power", 30019, 1218.6, "VA"), ("reactive_power", 30025, -184.9, "var"), ("power_factor", 30031, 0.988, None),
        ("frequency", 30071, 49.98, "Hz"), ("energy_import", 30073, 8123.456, "kWh"), ("energy_export", 30075, 12.25, "kWh"),
        ("reactive_import", 30077, 310.5, "kvarh"), ("reactive_export", 30079, 96.75, "kvarh"),
        ("energy_total", 30343, 8135.706, "kWh"), ("reactive_total", 30345, 407.25, "kvarh"),
    ])


def sdm230():
    return eastron("eastron-sdm230", "SDM230: one phase that feeds in", [
        ("voltage", 30001, 236.7, "V"), ("current", 30007, 14.125, "A"), ("power", 30013, -3310.2, "W"),
        ("apparent_power", 30019, 3343.4, "VA"), ("reactive_power", 30025, 470.1, "var"), ("power_factor", 30031, -0.99, None),
        ("phase_angle", 30037, 171.9, "°"), ("frequency", 30071, 50.02, "Hz"), ("energy_import", 30073, 1.5, "kWh"),
        ("energy_export", 30075, 20480.25, "kWh"), ("reactive_import", 30077, 64.5, "kvarh"),
        ("reactive_export", 30079, 0.0, "kvarh"), ("energy_total", 30343, 20481.75, "kWh"),
    ])


def sdm630():
    return eastron("eastron-sdm630", "SDM630: three phases with different loads", [
        ("voltage_l1", 30001, 230.1, "V"), ("voltage_l2", 30003, 231.4, "V"), ("voltage_l3", 30005, 228.9, "V"),
        ("current_l1", 30007, 4.216, "A"), ("current_l2", 30009, 0.0, "A"), ("current_l3", 30011, 12.875, "A"),
        ("power_l1", 30013, 951.2, "W"), ("power_l2", 30015, 0.0, "W"), ("power_l3", 30017, -2904.7, "W"),
        ("power_factor_l1", 30031, 0.98, None), ("power_factor_l2", 30033, 1.0, None), ("power_factor_l3", 30035, -0.985, None),
        ("power", 30053, -1953.5, "W"), ("apparent_power", 30057, 3918.2, "VA"), ("reactive_power", 30061, 694.3, "var"),
        ("power_factor", 30063, -0.498, None), ("frequency", 30071, 50.01, "Hz"), ("energy_import", 30073, 1234.5, "kWh"),
        ("energy_export", 30075, 6789.25, "kWh"), ("energy_total", 30343, 8023.75, "kWh"),
        ("energy_import_l1", 30347, 400.5, "kWh"), ("energy_import_l2", 30349, 410.25, "kWh"), ("energy_import_l3", 30351, 423.75, "kWh"),
        ("energy_export_l1", 30353, 2000.5, "kWh"), ("energy_export_l2", 30355, 2300.25, "kWh"), ("energy_export_l3", 30357, 2488.5, "kWh"),
    ])


def iem3155():
    # The manual counts registers from 1.
    dump = Dump("schneider-iem3155", "iEM3155: three phases, import only", base=1)
    for point, register, value, unit in [
        ("current_l1", 3000, 3.125, "A"), ("current_l2", 3002, 3.25, "A"), ("current_l3", 3004, 0.5, "A"),
        ("voltage_l1_l2", 3020, 400.2, "V"), ("voltage_l2_l3", 3022, 399.8, "V"), ("voltage_l3_l1", 3024, 401.0, "V"),
        ("voltage_l1", 3028, 231.0, "V"), ("voltage_l2", 3030, 230.8, "V"), ("voltage_l3", 3032, 231.5, "V"),
        ("power_l1", 3054, 0.7125, "kW"), ("power_l2", 3056, 0.7402, "kW"), ("power_l3", 3058, 0.1101, "kW"),
        ("power", 3060, 1.5628, "kW"), ("reactive_power", 3068, -0.2214, "kvar"), ("apparent_power", 3076, 1.5784, "kVA"),
        ("power_factor", 3084, 0.99, None), ("frequency", 3110, 49.97, "Hz"),
    ]:
        dump.point(point, register, f32(value), value, unit)
    # More than 32 bits hold.
    dump.point("energy_import", 3204, i64(5_123_456_789), 5_123_456_789, "Wh")
    return dump.point("energy_export", 3208, i64(0), 0, "Wh")


def em340():
    dump = Dump("carlo-gavazzi-em340", "EM340: L3 out of range, as the manual marks it", table="input")

    def tenths(point, address, raw, value, unit):
        dump.point(point, address, low_word_first(words(struct.pack(">i", raw))), value, unit)

    tenths("voltage_l1", 0x00, 2304, 230.4, "V")
    tenths("voltage_l2", 0x02, 2311, 231.1, "V")
    tenths("voltage_l3", 0x04, 0x7FFFFFFF, not_implemented(0x7FFFFFFF, 2), "V")
    tenths("current_l1", 0x0C, 12345, 12.345, "A")
    tenths("current_l2", 0x0E, 70000, 70, "A")
    tenths("current_l3", 0x10, 0, 0, "A")
    tenths("power_l1", 0x12, 28123, 2812.3, "W")
    tenths("power_l2", 0x14, -161770, -16177, "W")
    tenths("power_l3", 0x16, 0, 0, "W")
    tenths("power", 0x28, -133647, -13364.7, "W")
    for point, address, raw, value in [
        ("power_factor_l1", 0x2E, 988, 0.988), ("power_factor_l2", 0x2F, -999, -0.999),
        ("power_factor_l3", 0x30, 1000, 1), ("power_factor", 0x31, -870, -0.87),
    ]:
        dump.point(point, address, i16(raw), value)
    dump.point("frequency", 0x33, i16(500), 50, "Hz")
    tenths("energy_import", 0x34, 1234567, 123456.7, "kWh")
    tenths("energy_import_l1", 0x40, 400001, 40000.1, "kWh")
    tenths("energy_import_l2", 0x42, 400002, 40000.2, "kWh")
    tenths("energy_import_l3", 0x44, 434564, 43456.4, "kWh")
    tenths("energy_export", 0x4E, 65536, 6553.6, "kWh")
    return dump


def umg96rm():
    dump = Dump("janitza-umg96rm", "UMG 96RM: three phases behind current transformers")
    for point, address, value, unit in [
        ("voltage_l1", 19000, 229.9, "V"), ("voltage_l2", 19002, 230.3, "V"), ("voltage_l3", 19004, 230.0, "V"),
        ("voltage_l1_l2", 19006, 398.6, "V"), ("voltage_l2_l3", 19008, 398.7, "V"), ("voltage_l3_l1", 19010, 398.2, "V"),
        ("current_l1", 19012, 151.25, "A"), ("current_l2", 19014, 148.5, "A"), ("current_l3", 19016, 160.75, "A"),
        ("power_l1", 19020, 33012.5, "W"), ("power_l2", 19022, 32400.5, "W"), ("power_l3", 19024, 35111.0, "W"),
        ("power", 19026, 100524.0, "W"), ("apparent_power", 19034, 105950.5, "VA"), ("reactive_power", 19042, 33471.5, "var"),
        ("power_factor_l1", 19044, 0.95, None), ("power_factor_l2", 19046, 0.947, None), ("power_factor_l3", 19048, 0.95, None),
        ("frequency", 19050, 49.99, "Hz"), ("energy", 19060, 9876544.0, "Wh"), ("energy_import", 19068, 9876552.0, "Wh"),
        ("energy_export", 19076, 8.0, "Wh"),
    ]:
        dump.point(point, address, f32(value), value, unit)
    return dump


def shelly():
    dump = Dump("shelly-pro-3em", "Shelly Pro 3EM in the profile triphase", table="input", base=30000)
    for point, register, value, unit in [
        ("power", 31013, -215.3, "W"),
        ("voltage_l1", 31020, 233.1, "V"), ("current_l1", 31022, 1.044, "A"), ("power_l1", 31024, 120.5, "W"),
        ("voltage_l2", 31040, 232.7, "V"), ("current_l2", 31042, 2.031, "A"), ("power_l2", 31044, -450.2, "W"),
        ("voltage_l3", 31060, 234.0, "V"), ("current_l3", 31062, 0.61, "A"), ("power_l3", 31064, 114.4, "W"),
        ("energy_import", 31162, 1048576.5, "Wh"), ("energy_export", 31164, 20.25, "Wh"),
        ("energy_import_l1", 31182, 500.5, "Wh"), ("energy_export_l1", 31184, 1.5, "Wh"),
        ("energy_import_l2", 31202, 600.5, "Wh"), ("energy_export_l2", 31204, 2.5, "Wh"),
        ("energy_import_l3", 31222, 700.5, "Wh"), ("energy_export_l3", 31224, 3.5, "Wh"),
    ]:
        dump.point(point, register, low_word_first(f32(value)), value, unit)
    return dump


def atv320():
    dump = Dump("schneider-atv320", "ATV320: running backwards at 42.5 Hz")
    bits = {"ready": True, "switched_on": True, "running": True, "fault": False, "voltage": True,
            "quick_stop_inactive": True, "disabled": False, "warning": False}
    # CiA 402: operation enabled.
    dump.point("drive_status", 3201, u16(0x0037), bits)
    dump.point("output_frequency", 3202, i16(-425), -42.5, "Hz")
    dump.hold(3203, i16(-425))
    dump.point("motor_current", 3204, u16(37), 3.7, "A")
    dump.point("drive_thermal_state", 3209, u16(64), 64, "%")
    return dump.point("fault_code", 7121, u16(0), 0)


def xy_md02():
    # The manual's own examples: 0x0131 is 30.5 °C, 0xFF33 is -20.5 °C, 0x0222 is 54.6 %.
    dump = Dump("xy-md02", "XY-MD02: the manual's example below zero", table="input")
    dump.point("temperature", 1, [0xFF33], -20.5, "°C")
    return dump.point("humidity", 2, [0x0222], 54.6, "%")


def xy_md02_warm():
    dump = Dump("xy-md02.warm", "XY-MD02: the manual's example above zero", table="input")
    dump.point("temperature", 1, [0x0131], 30.5, "°C")
    return dump.point("humidity", 2, [0x0222], 54.6, "%")


def relay():
    dump = Dump("waveshare-relay-8ch", "Waveshare relay board: 1, 4 and 8 are on", table="coil")
    for at, is_on in enumerate([True, False, False, True, False, False, False, True]):
        dump.point(f"relay_{at + 1}", at, [is_on], is_on)
    return dump


def pta8c04():
    # 182 is 18.2 °C in the manual.
    dump = Dump("eletechsup-pta8c04", "PTA8C04: the manual's example, frost, heat")
    for at, (raw, value) in enumerate([(182, 18.2), (-155, -15.5), (2200, 220), (0, 0)]):
        dump.point(f"temperature_{at + 1}", at, i16(raw), value, "°C")
    for at, (raw, value) in enumerate([(1071, 107.1), (940, 94), (1832, 183.2), (1000, 100)]):
        dump.point(f"resistance_{at + 1}", 32 + at, u16(raw), value, "Ω")
    return dump


class Chain:
    """A SunSpec map: offsets are those of the models, behind number and length."""

    def __init__(self, dump, base):
        self.dump, self.address = dump, base + 2
        dump.hold(base, words(b"SunS"))

    def model(self, number, length, fields):
        held = [0] * length
        for offset, value in fields.items():
            held[offset:offset + len(value)] = value
        assert len(held) == length, (number, len(held))
        self.dump.hold(self.address, [number, length]).hold(self.address + 2, held)
        self.address += 2 + length

    def end(self):
        self.dump.hold(self.address, [0xFFFF, 0])


def common(chain, dump, maker, model, version, serial):
    chain.model(1, 66, {0: text(maker, 16), 16: text(model, 16), 40: text(version, 8), 48: text(serial, 16), 64: [1], 65: [0x8000]})
    dump.say("manufacturer", maker).say("model", model).say("version", version).say("serial_number", serial)


EVENTS = ["ground_fault", "dc_over_voltage", "ac_disconnect", "dc_disconnect", "grid_disconnect", "cabinet_open",
          "manual_shutdown", "over_temperature", "over_frequency", "under_frequency", "ac_over_voltage", "ac_under_voltage",
          "blown_string_fuse", "under_temperature", "memory_loss", "hardware_test_failure"]
MPPT = [("current", "A"), ("voltage", "V"), ("power", "W"), ("energy", "Wh")]


def sunspec_inverter():
    dump = Dump("sunspec-inverter", "Three phases in whole numbers, a model that nobody knows, two inputs")
    chain = Chain(dump, 40000)
    common(chain, dump, "Example Solar", "Three 10.0", "1.2.3", "7E0001")
    chain.model(103, 50, {
        0: u16(1234), 1: u16(411), 2: u16(412), 3: u16(0xFFFF), 4: i16(-2), 8: u16(2301), 9: u16(2315), 10: u16(2299),
        11: i16(-1), 12: i16(851), 13: i16(1), 14: u16(4998), 15: i16(-2), 16: i16(862), 17: i16(1), 18: i16(-13),
        19: i16(1), 20: i16(-987), 21: i16(-1), 22: u32(3_000_000_001), 24: i16(0), 25: u16(0xFFFF), 26: i16(-0x8000),
        27: u16(6123), 28: i16(-1), 29: i16(877), 30: i16(1), 31: i16(412), 32: i16(-0x8000), 33: i16(-0x8000),
        34: i16(-0x8000), 35: i16(-1), 36: u16(4), 37: u16(0xFFFF), 38: u32(1 << 7 | 1 << 10), 40: u32(0),
    })
    dump.say("current", 12.34, "A").say("current_l1", 4.11, "A").say("current_l2", 4.12, "A")
    dump.say("current_l3", not_implemented(0xFFFF), "A")
    dump.say("voltage_l1", 230.1, "V").say("voltage_l2", 231.5, "V").say("voltage_l3", 229.9, "V")
    dump.say("power", 8510, "W").say("apparent_power", 8620, "VA").say("reactive_power", -130, "var")
    dump.say("power_factor", -98.7, "%").say("frequency", 49.98, "Hz").say("energy", 3_000_000_001, "Wh")
    dump.say("dc_current", not_implemented(0xFFFF), "A")
    dump.say("dc_voltage", 612.3, "V").say("dc_power", 8770, "W").say("temperature", 41.2, "°C").say("state", "mppt")
    dump.say("events", {name: name in ("over_temperature", "ac_over_voltage") for name in EVENTS})
    chain.model(64001, 11, {})
    chain.model(160, 48, {
        0: i16(-2), 1: i16(-1), 2: i16(0), 3: i16(1), 4: u32(0), 6: u16(2), 7: u16(0xFFFF),
        8: u16(1), 9: text("East", 8), 17: u16(701), 18: u16(6120), 19: u16(4290), 20: u32(70_001), 24: i16(45), 25: u16(4),
        28: u16(2), 29: text("West", 8), 37: u16(732), 38: u16(6125), 39: u16(4480), 40: u32(80_002), 44: i16(46), 45: u16(4),
    })
    for at, values in enumerate([(7.01, 612, 4290, 700_010), (7.32, 612.5, 4480, 800_020)]):
        for (name, unit), value in zip(MPPT, values):
            dump.say(f"mppt_{at + 1}_{name}", value, unit)
    chain.end()
    return dump


def sunspec_inverter_float():
    dump = Dump("sunspec-inverter.float", "One phase in floats at the last of the three bases, one input")
    chain = Chain(dump, 0)
    common(chain, dump, "Float & Sons", "Mono 3.0", "9", "F-1")
    nan = words(struct.pack(">I", 0x7FC00000))
    chain.model(111, 60, {
        0: f32(11.5), 2: f32(11.5), 4: nan, 6: nan, 8: nan, 10: nan, 12: nan, 14: f32(229.75), 16: nan, 18: nan,
        20: f32(2640.5), 22: f32(50.01), 24: f32(2642.0), 26: f32(-3.5), 28: f32(99.9), 30: f32(1.5e7), 32: f32(7.25),
        34: f32(371.5), 36: nan, 38: f32(38.25), 40: nan, 42: nan, 44: nan, 46: u16(5), 47: u16(0), 48: u32(0),
    })
    dump.say("current", 11.5, "A").say("current_l1", 11.5, "A").say("current_l2", ABSENT).say("current_l3", ABSENT)
    dump.say("voltage_l1", 229.75, "V").say("voltage_l2", ABSENT).say("voltage_l3", ABSENT)
    dump.say("power", 2640.5, "W").say("apparent_power", 2642, "VA").say("reactive_power", -3.5, "var")
    dump.say("power_factor", 99.9, "%").say("frequency", 50.01, "Hz").say("energy", 15000000, "Wh").say("dc_current", 7.25, "A")
    dump.say("dc_voltage", 371.5, "V").say("dc_power", Said("bad: not a finite number"), "W").say("temperature", 38.25, "°C")
    dump.say("state", "throttled").say("events", dict.fromkeys(EVENTS, False))
    # New: nothing was accumulated, which the data type calls not implemented.
    chain.model(160, 28, {0: i16(-1), 1: i16(0), 2: i16(0), 3: i16(0), 6: u16(1), 17: u16(72), 18: u16(372), 19: u16(2690)})
    for (name, unit), value in zip(MPPT, (7.2, 372, 2690, not_implemented(0, 2))):
        dump.say(f"mppt_1_{name}", value, unit)
    for name, _ in MPPT:
        dump.say(f"mppt_2_{name}", ABSENT)
    chain.end()
    return dump


def sunspec_battery():
    dump = Dump("sunspec-battery", "A battery that discharges, its map at the second of the three bases")
    chain = Chain(dump, 50000)
    common(chain, dump, "Cell Works", "Store 10", "2.0", "B42")
    chain.model(802, 62, {
        0: u16(200), 1: u16(1024), 2: u16(500), 3: u16(510), 4: u16(0xFFFF), 9: u16(635), 10: u16(365), 11: u16(98),
        12: u32(1234), 14: u16(3), 20: u16(3), 32: u16(5123), 35: u16(3342), 38: u16(3299), 42: i16(-187), 45: i16(-958),
        50: i16(0), 51: i16(1), 52: i16(1), 53: i16(-0x8000), 54: i16(-1), 55: i16(-1), 56: i16(0), 57: i16(-2), 58: i16(-3),
        59: i16(-1), 60: i16(0), 61: i16(0),
    })
    dump.say("capacity", 10240, "Wh").say("charge_power_max", 5000, "W").say("discharge_power_max", 5100, "W")
    dump.say("state_of_charge", 63.5, "%").say("depth_of_discharge", 36.5, "%").say("state_of_health", 98, "%")
    dump.say("cycles", 1234).say("charging", "discharging").say("state", "connected").say("voltage", 51.23, "V")
    dump.say("cell_voltage_max", 3.342, "V").say("cell_voltage_min", 3.299, "V").say("current", -18.7, "A").say("power", -958, "W")
    chain.end()
    return dump


DUMPS = [sdm120, sdm230, sdm630, iem3155, em340, umg96rm, shelly, atv320, xy_md02, xy_md02_warm, relay, pta8c04,
         sunspec_inverter, sunspec_inverter_float, sunspec_battery]


def main():
    is_check = sys.argv[1:] == ["--check"]
    written = {f"{dump.name}.txt": str(dump) for dump in (make() for make in DUMPS)}
    if not is_check:
        for name, content in written.items():
            (FOLDER / name).write_text(content)
        return 0
    found = {path.name: path.read_text() for path in FOLDER.glob("*.txt")}
    wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    for name in wrong:
        print(f"tests/profiles/{name} is not what tests/profiles.py says", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
