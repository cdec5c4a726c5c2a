"""Holding registers over Modbus TCP; the only user of pymodbus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from linescan.errors import PeerError
from linescan.line import Plc
from linescan.plc.registers import Packing, RegistersError

ILLEGAL = (1, 2, 3)  # exception codes of Modbus: function, address, value; the others speak of the device's state

logging.getLogger("pymodbus").addHandler(logging.NullHandler())  # what goes wrong is raised, and not on stderr too


class Registers:
    """Reads and writes words of the map over one connection, each in a bounded time.

    Raises PeerError where the PLC does not answer in `timeout_s`, and RegistersError where it has no such registers;
    the connection is closed then, so that an answer that comes late is taken for no other.
    """

    def __init__(self, settings: Plc) -> None:
        self._settings = settings
        self._packing = Packing(settings.word_order, settings.byte_order)
        self._where = f"PLC {settings.host}:{settings.port} device {settings.device_id}"
        # Any: some of its methods are not annotated
        self._client: Any = ModbusTcpClient(settings.host, port=settings.port, timeout=settings.timeout_s, retries=0)

    def read(self, address: int, count: int) -> list[int]:
        words = self._ask(address, count, None)
        if len(words) != count:
            self.close()
            raise PeerError(f"{self._where}: {len(words)} registers from {address} instead of {count}")
        return self._packing.wire(words)

    def write(self, address: int, words: Sequence[int]) -> None:
        self._ask(address, len(words), self._packing.wire(words))

    def close(self) -> None:
        self._client.close()

    def _ask(self, address: int, count: int, words: list[int] | None) -> list[int]:
        base, device = self._settings.base_register, self._settings.device_id
        answer: ModbusPDU
        try:
            if not self._client.connect():
                raise PeerError(f"{self._where} cannot be reached")
            if words is None:
                answer = self._client.read_holding_registers(base + address, count=count, device_id=device)
            else:
                answer = self._client.write_registers(base + address, words, device_id=device)
        except (ModbusException, OSError) as error:
            self.close()
            raise PeerError(f"{self._where}: {error}") from error
        if not answer.isError():
            return list(answer.registers)
        self.close()
        code = answer.exception_code
        what = f"{'reading' if words is None else 'writing'} {count} registers from {base + address}"
        kind = RegistersError if code in ILLEGAL else PeerError
        raise kind(f"{self._where}: {what}: Modbus exception {code}")
