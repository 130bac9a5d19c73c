// The daemon as the extension knows it: three proxies of one name on the session bus, and no user interface.
//
// Shells before 45 load this file as it is, through `imports`; scripts/install makes a module of it for the later ones.
/* exported makeClient, State, Health */

const NAME = 'org.xrat.Daemon1';
const PATH = '/org/xrat/Daemon1';

// The numbers of docs/dbus.md.
var State = Object.freeze({
    UNKNOWN: 0,
    DISCONNECTED: 1,
    CONNECTING: 2,
    CONNECTED: 3,
    REPLACING: 4,
    RECOVERING: 5,
    FAILED: 6,
    DISCONNECTING: 7,
});
var Health = Object.freeze({UNKNOWN: 0, UNPROVEN: 1, HEALTHY: 2, DEGRADED: 3, FAILED: 4});

// Gives the class Client, made of what the version of the Shell has these libraries from.
function makeClient({Gio, GLib}) {
    const LOOK = Gio.DBusProxyFlags.DO_NOT_AUTO_START;
    // Of these proxies nothing is read: a call of theirs starts the daemon where the bus knows how.
    const WAKE =
        Gio.DBusProxyFlags.DO_NOT_AUTO_START_AT_CONSTRUCTION |
        Gio.DBusProxyFlags.DO_NOT_LOAD_PROPERTIES |
        Gio.DBusProxyFlags.DO_NOT_CONNECT_SIGNALS;

    // `dir` has the interfaces' XML in dbus/. `told.changed()` is called whenever a getter may say something new,
    // `told.nodesChanged()` when nodes() may. Nothing is called after destroy().
    return class Client {
        constructor(dir, told) {
            this._dir = dir;
            this._told = told;
            this._cancellable = new Gio.Cancellable();
            this._handlers = [];
            this._runtime = this._look('Runtime');
            this._rotation = this._look('Rotation');
            this._configs = this._look('Configs');
            this._waker = this._proxy('Runtime', WAKE);
            this._follow(this._configs, 'g-signal', (_proxy, _sender, name) => {
                if (name === 'Changed')
                    this._told.nodesChanged();
            });
        }

        destroy() {
            this._cancellable.cancel();
            for (const [proxy, id] of this._handlers)
                proxy.disconnect(id);
            this._handlers = [];
        }

        // Whether a daemon is on the bus.
        get running() {
            return this._runtime.g_name_owner !== null;
        }

        get state() {
            return this._property(this._runtime, 'State') ?? State.UNKNOWN;
        }

        get health() {
            return this._property(this._runtime, 'Health') ?? Health.UNKNOWN;
        }

        // The session as docs/dbus.md has it; null when there is none.
        get session() {
            const session = this._property(this._runtime, 'Session');
            return session?.config_id === undefined ? null : session;
        }

        // Whether rotation runs by its timer.
        get automatic() {
            return this._property(this._rotation, 'Enabled') ?? false;
        }

        // Whether a session is wanted, also while there is none or one is only being made.
        get wanted() {
            return ![State.UNKNOWN, State.DISCONNECTED, State.DISCONNECTING].includes(this.state);
        }

        // Starts a session, and the daemon before it if need be. With id 0 the daemon chooses the node.
        connectTo(id) {
            return this._call(this._waker, 'Connect', new GLib.Variant('(x)', [id]));
        }

        // Moves the session without losing a connection. With id 0 rotation chooses the node.
        moveTo(id) {
            return this._call(this._runtime, 'Replace', new GLib.Variant('(sx)', ['manual', id]));
        }

        disconnect() {
            return this._call(this._runtime, 'Disconnect', null);
        }

        setAutomatic(automatic) {
            return this._call(this._rotation, automatic ? 'Start' : 'Stop', null);
        }

        // The `limit` fastest enabled nodes.
        async nodes(limit) {
            const options = {
                sort: new GLib.Variant('s', 'delay'),
                enabled: new GLib.Variant('b', true),
                limit: new GLib.Variant('u', limit),
            };
            const [nodes] = await this._call(this._configs, 'List', new GLib.Variant('(a{sv})', [options]));
            return nodes;
        }

        // What is wrong in words for a person; null if it is only that the extension was switched off meanwhile.
        explain(error) {
            if (error.matches?.(Gio.IOErrorEnum, Gio.IOErrorEnum.CANCELLED))
                return null;
            if (error.matches?.(Gio.DBusError, Gio.DBusError.SERVICE_UNKNOWN))
                return 'The daemon does not run, and the bus cannot start it: run “xrat daemon start”.';
            Gio.DBusError.strip_remote_error(error);
            return error.message;
        }

        _look(name) {
            const proxy = this._proxy(name, LOOK);
            this._follow(proxy, 'g-properties-changed', () => this._told.changed());
            this._follow(proxy, 'notify::g-name-owner', () => this._told.changed());
            return proxy;
        }

        _proxy(name, flags) {
            const interfaceName = `${NAME}.${name}`;
            const [, xml] = this._dir.get_child('dbus').get_child(`${interfaceName}.xml`).load_contents(null);
            const node = Gio.DBusNodeInfo.new_for_xml(new TextDecoder().decode(xml));
            const proxy = new Gio.DBusProxy({
                g_connection: Gio.DBus.session,
                g_name: NAME,
                g_object_path: PATH,
                g_interface_name: interfaceName,
                g_interface_info: node.lookup_interface(interfaceName),
                g_flags: flags,
            });
            proxy.init_async(GLib.PRIORITY_DEFAULT, this._cancellable, (_proxy, result) => {
                try {
                    proxy.init_finish(result);
                    this._told.changed();
                } catch (error) {
                    if (this.explain(error))
                        console.error(`xrat: no proxy of ${interfaceName}: ${error.message}`);
                }
            });
            return proxy;
        }

        _follow(proxy, signal, handler) {
            this._handlers.push([proxy, proxy.connect(signal, handler)]);
        }

        _property(proxy, name) {
            return this.running ? proxy.get_cached_property(name)?.recursiveUnpack() : undefined;
        }

        _call(proxy, method, parameters) {
            return new Promise((resolve, reject) => {
                // The daemon answers within 18 s; the default is 25 s.
                proxy.call(method, parameters, Gio.DBusCallFlags.NONE, -1, this._cancellable, (_proxy, result) => {
                    try {
                        resolve(proxy.call_finish(result).recursiveUnpack());
                    } catch (error) {
                        reject(error);
                    }
                });
            });
        }
    };
}
