"""pymodbus as a device: a server of Modbus TCP, RTU, RTU over TCP or ASCII in a thread of its own, whose registers can
be read directly. libmodbus as one: a process of its own."""

import asyncio
import contextlib
import logging
import threading

from harness import Process, wait_for
from pymodbus import ModbusDeviceIdentification
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

READ_COILS, READ_HOLDING, WRITE_HOLDING = 1, 3, 16
IDENTITY = "VendorName", "ProductCode", "MajorMinorRevision"
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class Registers:
    """What a unit holds: a dictionary of address to value for each table. Bits are kept to multiples of 16."""

    def __init__(self, *, coils=None, discrete=None, holding=None, inputs=None):
        self.coils, self.discrete = coils or {0: False}, discrete or {0: False}
        self.holding, self.inputs = holding or {0: 0}, inputs or {0: 0}

    def device(self, unit):
        bits = [self.bit_block(table) for table in (self.coils, self.discrete)]
        registers = [self.register_blocks(table) for table in (self.holding, self.inputs)]
        return SimDevice(unit, simdata=(*bits, *registers))

    def lines(self):
        """As `libmodbus_server.c` reads them."""
        tables = {"coil": self.coils, "discrete": self.discrete, "holding": self.holding, "input": self.inputs}
        return "".join(
            f"{name} {address} {int(value)}\n" for name, table in tables.items() for address, value in table.items()
        )

    @staticmethod
    def bit_block(table):
        length = (max(table) // 16 + 1) * 16
        return [SimData(0, values=[table.get(address, False) for address in range(length)], datatype=DataType.BITS)]

    @staticmethod
    def register_blocks(table):
        return [
            SimData(address, values=value, datatype=DataType.REGISTERS) for address, value in sorted(table.items())
        ]


class ModbusServer:
    """`tcp_port` or `serial_path` says where, `framer` how. Starting again takes the registers' first values."""

    def __init__(self, unit, registers, *, tcp_port=None, serial_path=None, framer=None, identity=None):
        self.unit, self.registers = unit, registers
        # Vendor, product code, revision.
        self.identity = ModbusDeviceIdentification(info_name=dict(zip(IDENTITY, identity, strict=True))) if identity else None
        self.framer = framer or (FramerType.SOCKET if tcp_port else FramerType.RTU)
        self.tcp_port, self.serial_path = tcp_port, serial_path
        self.loop = asyncio.new_event_loop()
        self.server = None
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def start(self):
        self.call(self._start())

    async def _start(self):
        device = self.registers.device(self.unit)
        if self.tcp_port:
            address = ("127.0.0.1", self.tcp_port)
            self.server = ModbusTcpServer(device, framer=self.framer, address=address, identity=self.identity)
        else:
            port = str(self.serial_path)
            self.server = ModbusSerialServer(device, framer=self.framer, port=port, baudrate=19200)
        await self.server.serve_forever(background=True)

    def stop(self):
        if self.server:
            with contextlib.suppress(Exception):
                self.call(self.server.shutdown())
            self.server = None

    def holding(self, address, count=1):
        return self.call(self.server.async_getValues(self.unit, READ_HOLDING, address, count))

    def set_holding(self, address, value):
        self.call(self.server.async_setValues(self.unit, WRITE_HOLDING, address, [value]))

    def coil(self, address):
        return self.call(self.server.async_getValues(self.unit, READ_COILS, address, 1))[0]


class LibmodbusServer(Process):
    """A device made of libmodbus, over TCP or on a serial line. Made by `tests/interop/run`."""

    def __init__(self, scenario, name, unit, registers, *, tcp_port=None, serial_path=None):
        table = scenario.folder / f"{name}.table"
        table.write_text(registers.lines())
        place = ["tcp", tcp_port] if tcp_port else ["rtu", serial_path, unit]
        super().__init__(scenario, name, ["target/libmodbus_server", *place, table])

    def stop(self):
        self.kill()

    def wait(self):
        wait_for(f"{self.name} to run", self.is_running)
