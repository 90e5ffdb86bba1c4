"""Writes tests/decoding.txt: registers and the values that they are, by pymodbus's own conversion.

    target/venv/bin/python tests/decoding.py             # writes the table
    target/venv/bin/python tests/decoding.py --check     # exit code 1: the table is not what pymodbus says

What pymodbus has no word for is told by arithmetic on what it has: bytes are swapped in each register, decimals scaled
with Decimal, and binary coded decimal is the hexadecimal digits of an unsigned number.
"""

import struct
import sys
from decimal import Decimal
from pathlib import Path

from pymodbus.client.mixin import ModbusClientMixin

TABLE = Path(__file__).with_name("decoding.txt")
DATA = ModbusClientMixin.DATATYPE
TYPES = {
    "u16": DATA.UINT16,
    "i16": DATA.INT16,
    "u32": DATA.UINT32,
    "i32": DATA.INT32,
    "u64": DATA.UINT64,
    "i64": DATA.INT64,
    "f32": DATA.FLOAT32,
    "f64": DATA.FLOAT64,
    "bcd16": DATA.UINT16,
    "bcd32": DATA.UINT32,
    "bcd64": DATA.UINT64,
}
INTEGERS = ["u16", "i16", "u32", "i32", "u64", "i64"]
HEADER = """\
# Registers and the value that they are. Written by tests/decoding.py with pymodbus; not to be changed by hand.
# type, word order, byte order, options | registers | value, or why there is none
"""


def width(name):
    return TYPES[name].value[1] * 16


def numbers(name):
    """Edges and what lies between, in the type's own range."""
    bits = width(name)
    if name.startswith("u"):
        return [0, 1, 0x1234, 2 ** (bits - 1), 2**bits - 1, 0x0102030405060708 >> (64 - bits)]
    if name.startswith("i"):
        return [0, -1, -2, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 0x0102030405060708 >> (64 - bits)]
    if name.startswith("bcd"):
        digits = bits // 4
        return [0, 9, int("1234567890123456"[:digits]), int("9" * digits)]
    return [0.0, 230.1, -123.456, 1e-3, 1.5e30, 16777216.0]


def swapped_bytes(words):
    return [(word >> 8) | (word & 0xFF) << 8 for word in words]


def ordered(words, word_order, byte_order):
    """`words` are big-endian, as pymodbus makes them."""
    if word_order.startswith("little"):
        words = words[::-1]
    if word_order.endswith("swapped") and len(words) > 1:
        words = [words[place ^ 1] for place in range(len(words))]
    return swapped_bytes(words) if byte_order == "little" else words


def registers(name, number):
    if name.startswith("bcd"):
        number = int(str(number), 16)
    return ModbusClientMixin.convert_to_registers(number, TYPES[name])


def decoded(name, words):
    """What pymodbus reads back; that a table is written from what it wrote would prove nothing."""
    number = ModbusClientMixin.convert_from_registers(words, TYPES[name])
    return int(f"{number:x}") if name.startswith("bcd") else number


def shown(name, number, scale="1", offset="0", exponent=0):
    if name == "f32" and (scale, offset, exponent) == ("1", "0", 0):
        # The shortest decimal that is this float.
        for digits in range(1, 10):
            text = f"{number:.{digits}g}"
            if struct.pack(">f", float(text)) == struct.pack(">f", number):
                return text_of(Decimal(text))
    exact = Decimal(repr(number) if isinstance(number, float) else number)
    return text_of(exact * Decimal(scale).scaleb(exponent) + Decimal(offset))


def text_of(number):
    """A float is written with an exponent where it is very large or small; a whole number never is."""
    return f"{number.normalize():f}" if number else "0"


def line(name, options, words, value, word_order="big", byte_order="big"):
    fields = [name, word_order, byte_order, *options]
    return f"{' '.join(fields)} | {' '.join(f'{word:04X}' for word in words)} | {value}"


def orders(name):
    """All that differ."""
    words = ["big"] if width(name) == 16 else ["big", "little"]
    if width(name) == 64:
        words += ["big-swapped", "little-swapped"]
    return [(word, byte) for word in words for byte in ("big", "little")]


def plain():
    for name in TYPES:
        for word_order, byte_order in orders(name):
            for number in numbers(name):
                words = registers(name, number)
                value = shown(name, decoded(name, words))
                yield line(name, [], ordered(words, word_order, byte_order), value, word_order, byte_order)


def scaled():
    scales = [("0.1", "0", 0), ("0.001", "0", 0), ("10", "0", 0), ("0.01", "-40", 0), ("1", "0", -2), ("0.1", "0", -1)]
    for name in ["u16", "i16", "u32", "i32", "bcd16", "bcd32"]:
        for scale, offset, exponent in scales:
            options = [f"scale={scale}", f"offset={offset}", f"exponent={exponent}"]
            for number in numbers(name)[-2:]:
                words = registers(name, number)
                value = shown(name, decoded(name, words), scale, offset, exponent)
                yield line(name, options, words, value)


def invalid():
    """Sentinels are told from their neighbours before anything is scaled."""
    for name in INTEGERS:
        bits = width(name)
        sentinel = 2 ** (bits - 1) if name.startswith("i") else 2**bits - 1
        options = ["scale=0.1", f"invalid=0x{sentinel:X}"]
        for word_order, byte_order in orders(name)[:2]:
            bad, good = (
                ModbusClientMixin.convert_to_registers(number, TYPES[f"u{bits}"]) for number in (sentinel, 7)
            )
            of = (word_order, byte_order)
            yield line(name, options, ordered(bad, *of), f"bad: 0x{sentinel:0{bits // 4}X} stands for no value", *of)
            yield line(name, options, ordered(good, *of), shown(name, decoded(name, good), "0.1"), *of)
    for name, bits in (("f32", 0x7FC00000), ("f64", 0x7FF8000000000000)):
        of_bits = TYPES["u32" if name == "f32" else "u64"]
        words = ModbusClientMixin.convert_to_registers(bits, of_bits)
        assert decoded(name, words) != decoded(name, words), "NaN"
        yield line(name, [], words, "bad: not a finite number")
        yield line(name, [f"invalid=0x{bits:X}"], words, f"bad: 0x{bits:X} stands for no value")
        for number in (float("inf"), float("-inf")):
            yield line(name, [], registers(name, number), "bad: not a finite number")
    for name in ("bcd16", "bcd32", "bcd64"):
        for digit in "AF":
            text = "1234567890123456"[: width(name) // 4 - 1] + digit
            words = ModbusClientMixin.convert_to_registers(int(text, 16), TYPES[name])
            yield line(name, [], words, f"bad: 0x{text} is not binary coded decimal")


def texts():
    for text in ("SN-12345", "AB", "é/Ω", "", "a b"):
        for byte_order in ("big", "little"):
            words = ModbusClientMixin.convert_to_registers(text, DATA.STRING) or [0]
            assert ModbusClientMixin.convert_from_registers(words, DATA.STRING) == text
            for pad in ([], [0], [0x2020]):
                padded = ordered([*words, *pad], "big", byte_order)
                yield line("string", [], padded, f'"{text}"', byte_order=byte_order)
    # ISO 8859-1 where UTF-8 is wanted.
    latin = "Größe ".encode("latin-1")
    yield line("string", [], list(struct.unpack(">3H", latin)), "bad: not UTF-8 text")


def main():
    lines = [*plain(), *scaled(), *invalid(), *texts()]
    table = HEADER + "\n".join(lines) + "\n"
    if "--check" in sys.argv:
        same = TABLE.read_text() == table
        print(f"{len(lines)} cases are " + ("what pymodbus says" if same else "NOT what pymodbus says"))
        sys.exit(0 if same else 1)
    TABLE.write_text(table)
    print(f"{len(lines)} cases")


if __name__ == "__main__":
    main()
