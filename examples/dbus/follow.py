#!/usr/bin/python3
# Says how the session is now and each state that it enters, with its node, until it is interrupted. Needs python3-gi.
from gi.repository import Gio, GLib

STATES = "unknown disconnected connecting connected replacing recovering failed disconnecting".split()


def show(proxy):
    state, session = proxy.get_cached_property("State"), proxy.get_cached_property("Session")
    if state is None:
        print("no daemon", flush=True)
        return
    node = session.unpack().get("name", "") if session else ""
    print(STATES[state.unpack()], node, flush=True)


# Looking must not start a daemon.
proxy = Gio.DBusProxy.new_for_bus_sync(
    Gio.BusType.SESSION,
    Gio.DBusProxyFlags.DO_NOT_AUTO_START,
    None,
    "org.xrat.Daemon1",
    "/org/xrat/Daemon1",
    "org.xrat.Daemon1.Runtime",
)
# State, reason and session change together, in one signal. GLib has the new values when it calls.
proxy.connect("g-properties-changed", lambda proxy, changed, _gone: "State" in changed.keys() and show(proxy))
# The daemon came or went.
proxy.connect("notify::g-name-owner", lambda proxy, _: show(proxy))
show(proxy)
try:
    GLib.MainLoop().run()
except KeyboardInterrupt:
    pass
