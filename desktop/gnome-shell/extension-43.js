// The extension as Shells 43 and 44 load it: a script, with the Shell's own in `imports`.
/* exported init */

const {Clutter, Gio, GLib, GObject, Pango, St} = imports.gi;
const Main = imports.ui.main;
const PopupMenu = imports.ui.popupMenu;
const QuickSettings = imports.ui.quickSettings;
const Me = imports.misc.extensionUtils.getCurrentExtension();

const {Health, State, makeClient} = Me.imports.client;
const {makeIndicator} = Me.imports.menu;

// Once in the life of the Shell: a class can be registered only once.
const Indicator = makeIndicator({
    Clutter, Gio, GObject, Pango, PopupMenu, QuickSettings, St, Health, State,
    Client: makeClient({Gio, GLib}),
    notify: (title, text) => Main.notify(title, text),
});

class Extension {
    enable() {
        this._indicator = new Indicator(Me.dir);
        const panel = Main.panel.statusArea.quickSettings;
        panel._indicators.insert_child_at_index(this._indicator, 0);
        panel._addItems(this._indicator.quickSettingsItems);
        // Shell 44 has background apps, which stay last.
        const last = panel._backgroundApps?.quickSettingsItems[0];
        for (const item of last ? this._indicator.quickSettingsItems : [])
            panel.menu._grid.set_child_below_sibling(item, last);
    }

    disable() {
        this._indicator?.destroy();
        this._indicator = null;
    }
}

function init() {
    return new Extension();
}
