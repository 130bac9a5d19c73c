# The whole life of a session through GLib's D-Bus: arguments are the ids of two configs, and a link to import.
import sys

from gi.repository import Gio, GLib

NAME = "org.xrat.Daemon1"
PATH = "/org/xrat/Daemon1"
first, second, link = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

bus = Gio.bus_get_sync(Gio.BusType.SESSION)
context = GLib.MainContext.default()
signals = []


def seen(_bus, _sender, path, _interface, member, arguments):
    signals.append((path, member, arguments.unpack()))


bus.signal_subscribe(NAME, None, None, None, None, Gio.DBusSignalFlags.NONE, seen)


def call(interface, method, signature="()", *arguments, path=PATH):
    values = GLib.Variant(signature, arguments)
    answer = bus.call_sync(NAME, path, NAME + interface, method, values, None, Gio.DBusCallFlags.NO_AUTO_START, -1)
    return (answer.unpack() or (None,))[0]


def get(interface, name, path=PATH):
    arguments = GLib.Variant("(ss)", (NAME + interface, name))
    flags = Gio.DBusCallFlags.NO_AUTO_START
    return bus.call_sync(NAME, path, "org.freedesktop.DBus.Properties", "Get", arguments, None, flags, -1).unpack()[0]


def until(wanted):
    while True:
        for at, signal in enumerate(signals):
            if wanted(signal):
                del signals[: at + 1]
                return signal
        context.iteration(True)


def fails(name, *arguments):
    try:
        call(*arguments)
    except GLib.Error as error:
        found = Gio.DBusError.get_remote_error(error)
        assert found == f"{NAME}.Error.{name}", found
    else:
        raise AssertionError(f"{arguments} did not fail")


# Never hang: the test's patience is shorter than the user's.
GLib.timeout_add_seconds(60, lambda: sys.exit("nothing happens any more"))

assert call("", "Ping")["version"] == get("", "Version")
added = call(".Configs", "Import", "(sa{sv})", link, {})["added"]
until(lambda signal: signal[1] == "Changed")
listed = call(".Configs", "List", "(a{sv})", {"sort": GLib.Variant("s", "id")})
assert [row["config_id"] for row in listed] == sorted([first, second, *added]), listed

fails("NotFound", ".Runtime", "Disconnect")
session = call(".Runtime", "Connect", "(x)", first)
assert get(".Runtime", "Session")["session_id"] == session["session_id"]
until(lambda signal: signal[1:] == ("StateChanged", (2, 1, 2)))
until(lambda signal: signal[1:] == ("StateChanged", (3, 2, 2)))
fails("Conflict", ".Runtime", "Connect", "(x)", first)
fails("BadRequest", ".Runtime", "Replace", "(sx)", "banana", 0)

call(".Rotation", "Start")
assert get(".Rotation", "Enabled") is True
assert call(".Runtime", "Replace", "(sx)", "manual", second)["config_id"] == second
rotated = until(lambda signal: signal[1] == "Rotated")[2]
assert rotated[:3] == (first, second, "manual"), rotated
assert call(".Rotation", "History", "(u)", 1)[0] == rotated[3]
call(".Rotation", "Stop")

job = call(".Configs", "Test", "(axa{sv})", [first, second], {})
results = [until(lambda signal: signal[:2] == (job, "Result"))[2] for _ in range(2)]
assert sorted(result[0] for result in results) == [first, second], results
assert all(delay >= 0 for _, delay, _ in results), results
assert until(lambda signal: signal[:2] == (job, "Finished"))[2] == ("done",)
assert get(".Job", "Done", path=job) == get(".Job", "Total", path=job) == 2

call(".Runtime", "Disconnect")
assert call(".Runtime", "GetStatus")["state"] == get(".Runtime", "State") == 1
call("", "Shutdown")
