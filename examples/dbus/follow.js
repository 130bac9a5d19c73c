#!/usr/bin/gjs
// Says how the session is now and each state that it enters, with its node, until it is interrupted. Runs in GNOME's
// JavaScript; a GNOME Shell extension would do the same.
imports.gi.versions.Gio = '2.0';
const {Gio, GLib} = imports.gi;

const STATES = 'unknown disconnected connecting connected replacing recovering failed disconnecting'.split(' ');

// The interface as dbus/org.xrat.Daemon1.Runtime.xml has it, of which this uses three members.
const Runtime = Gio.DBusProxy.makeProxyWrapper(`<node><interface name="org.xrat.Daemon1.Runtime">
    <method name="Disconnect"/>
    <property name="State" type="u" access="read"/>
    <property name="Session" type="a{sv}" access="read"/>
</interface></node>`);

function show(proxy) {
    // null where there is no daemon.
    if (proxy.State === null)
        return print('no daemon');
    const name = proxy.Session?.name?.deepUnpack() ?? '';
    print(STATES[proxy.State], name);
}

const loop = GLib.MainLoop.new(null, false);
// Looking must not start a daemon.
new Runtime(Gio.DBus.session, 'org.xrat.Daemon1', '/org/xrat/Daemon1', (proxy, error) => {
    if (error) {
        printerr(error.message);
        return loop.quit();
    }
    // State, reason and session change together, in one signal.
    proxy.connect('g-properties-changed', (_proxy, changed) => {
        if ('State' in changed.deepUnpack())
            show(proxy);
    });
    proxy.connect('notify::g-name-owner', () => show(proxy));
    show(proxy);
}, null, Gio.DBusProxyFlags.DO_NOT_AUTO_START);
loop.run();
