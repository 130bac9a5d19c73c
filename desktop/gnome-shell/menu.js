// What people see of it: the icon in the panel, the toggle in the quick settings, and the toggle's menu.
//
// Shells before 45 load this file as it is, through `imports`; scripts/install makes a module of it for the later ones.
/* exported makeIndicator */

const TITLE = 'xrat';
// So many nodes are in the menu.
const NODES = 12;
// The list of nodes scrolls when it is higher.
const LIST_STYLE = 'max-height: 22em;';

// Gives the class Indicator, made of what the version of the Shell has these libraries from; `notify(title, text)`
// shows a notification.
function makeIndicator({Clutter, Gio, GObject, Pango, PopupMenu, QuickSettings, St, Client, State, Health, notify}) {
    // The file's name is xrat-NAME-symbolic.svg.
    function iconName(client) {
        switch (client.state) {
        case State.CONNECTED:
            return [Health.DEGRADED, Health.FAILED].includes(client.health) ? 'degraded' : 'connected';
        case State.CONNECTING:
            return 'connecting';
        case State.REPLACING:
        case State.RECOVERING:
            return 'replacing';
        case State.FAILED:
            return 'failed';
        default:
            return 'disconnected';
        }
    }

    // One line for the toggle; empty when there is nothing to say.
    function summary(client) {
        switch (client.state) {
        case State.CONNECTING:
            return 'Connecting…';
        case State.CONNECTED:
        case State.REPLACING:
            return client.session?.name ?? '';
        case State.RECOVERING:
            return 'Reconnecting…';
        case State.FAILED:
            return 'No node answers';
        case State.DISCONNECTING:
            return 'Disconnecting…';
        default:
            return '';
        }
    }

    // One line for the head of the menu, which has more room.
    function details(client) {
        if (!client.running)
            return 'The daemon is not running';
        const {session, state} = client;
        if (state === State.REPLACING)
            return `${summary(client)}: moving…`;
        if (state !== State.CONNECTED || session === null)
            return summary(client) || 'Not connected';
        if (iconName(client) === 'degraded')
            return `${session.name}: does not answer`;
        return session.delay_ms === undefined ? session.name : `${session.name}, ${session.delay_ms} ms`;
    }

    function result(node) {
        const test = node.last_test;
        if (!test)
            return '';
        return test.delay_ms === undefined ? 'failed' : `${test.delay_ms} ms`;
    }

    const XratToggle = GObject.registerClass({
        Signals: {'xrat-changed': {}},
    }, class XratToggle extends QuickSettings.QuickMenuToggle {
        _init(dir) {
            super._init({toggleMode: false});
            this._icons = dir.get_child('icons');
            this._client = new Client(dir, {
                changed: () => this._sync(),
                nodesChanged: () => this._reload(),
            });
            this._nodes = [];
            // The answers of calls that are older than the last one do not count.
            this._asked = 0;
            this._buildMenu();
            this.connect('clicked', () => this._toggle());
            this.connect('destroy', () => this._end());
            this._sync();
        }

        // What the panel shows; null for nothing.
        get panelIcon() {
            return this._client.wanted ? this._gicon(iconName(this._client)) : null;
        }

        _buildMenu() {
            this._list = new PopupMenu.PopupMenuSection();
            this.menu.addMenuItem(this._list);
            this._scroll(this._list);
            this.menu.addMenuItem(new PopupMenu.PopupSeparatorMenuItem());
            this._rotate = this.menu.addAction('Rotate now', () => this._do(this._client.moveTo(0)));
            this._automatic = new PopupMenu.PopupSwitchMenuItem('Rotate automatically', false);
            this._automatic.connect('toggled', (_item, on) => this._do(this._client.setAutomatic(on)));
            this.menu.addMenuItem(this._automatic);
            this.menu.connect('open-state-changed', (_menu, open) => {
                if (open)
                    this._reload();
            });
        }

        // Puts a view that scrolls between a section and its menu.
        _scroll(section) {
            const view = new St.ScrollView({
                style: LIST_STYLE,
                hscrollbar_policy: St.PolicyType.NEVER,
                vscrollbar_policy: St.PolicyType.AUTOMATIC,
            });
            const box = section.actor.get_parent();
            box.replace_child(section.actor, view);
            // add_actor() ends with Shell 45, and before 46 set_child() is not meant for it.
            if (view.add_actor)
                view.add_actor(section.actor);
            else
                view.set_child(section.actor);
        }

        _end() {
            this._client.destroy();
            this._client = null;
        }

        _toggle() {
            this._do(this._client.wanted ? this._client.disconnect() : this._client.connectTo(0));
        }

        _choose(id) {
            // A session that was lost is brought back by moving it.
            this._do(this._client.wanted ? this._client.moveTo(id) : this._client.connectTo(id));
        }

        // Waits for a call's end. What goes wrong is shown, and the switches are what the daemon says.
        async _do(call) {
            const client = this._client;
            try {
                await call;
            } catch (error) {
                const text = client.explain(error);
                if (text !== null)
                    notify(TITLE, text);
            }
            if (this._client !== null)
                this._sync();
        }

        _sync() {
            const client = this._client;
            const icon = this._gicon(iconName(client));
            this.set({checked: client.wanted, gicon: icon});
            this._say(summary(client));
            this.menu.setHeader(icon, TITLE, details(client));
            this._rotate.setSensitive([State.CONNECTED, State.RECOVERING, State.FAILED].includes(client.state));
            this._automatic.setSensitive(client.running);
            this._automatic.setToggleState(client.automatic);
            this._mark();
            if (!client.running)
                this._show([]);
            this.emit('xrat-changed');
        }

        _say(subtitle) {
            // Shell 44 gave toggles a second line.
            if ('subtitle' in this)
                this.set({title: TITLE, subtitle: subtitle || null});
            else
                this.label = subtitle ? `${TITLE}\n${subtitle}` : TITLE;
        }

        _gicon(name) {
            return new Gio.FileIcon({file: this._icons.get_child(`xrat-${name}-symbolic.svg`)});
        }

        // Reads the nodes again if somebody looks at them.
        async _reload() {
            if (!this.menu.isOpen || !this._client.running)
                return;
            const asked = ++this._asked;
            try {
                const nodes = await this._client.nodes(NODES);
                if (asked === this._asked && this._client?.running)
                    this._show(nodes);
            } catch (error) {
                const text = this._client?.explain(error);
                if (text)
                    console.warn(`xrat: no list of nodes: ${text}`);
            }
        }

        _show(nodes) {
            this._asked++;
            this._list.removeAll();
            this._nodes = nodes.map(node => {
                const item = new PopupMenu.PopupMenuItem(node.name);
                item.label.x_expand = true;
                item.label.clutter_text.ellipsize = Pango.EllipsizeMode.END;
                item.add_child(new St.Label({text: result(node), y_align: Clutter.ActorAlign.CENTER}));
                item.connect('activate', () => this._choose(node.config_id));
                this._list.addMenuItem(item);
                return {id: node.config_id, item};
            });
            this._mark();
        }

        _mark() {
            const active = this._client.session?.config_id;
            for (const {id, item} of this._nodes)
                item.setOrnament(id === active ? PopupMenu.Ornament.CHECK : PopupMenu.Ornament.NONE);
        }
    });

    return GObject.registerClass(
    class XratIndicator extends QuickSettings.SystemIndicator {
        // `dir` is the extension's directory.
        _init(dir) {
            super._init();
            this._shown = this._addIndicator();
            this._toggle = new XratToggle(dir);
            this._toggle.connect('xrat-changed', () => this._sync());
            this.quickSettingsItems.push(this._toggle);
            this.connect('destroy', () => this._end());
            this._sync();
        }

        _end() {
            const {menu} = this._toggle;
            this._toggle.destroy();
            // Its actor lives in an overlay of the panel, which looks at it as long as it has the toggle.
            menu.destroy();
        }

        _sync() {
            const icon = this._toggle.panelIcon;
            this._shown.gicon = icon;
            this._shown.visible = icon !== null;
        }
    });
}
