// The extension as Shells from 45 on load it: a module.
import Clutter from 'gi://Clutter';
import Gio from 'gi://Gio';
import GLib from 'gi://GLib';
import GObject from 'gi://GObject';
import Pango from 'gi://Pango';
import St from 'gi://St';

import {Extension} from 'resource:///org/gnome/shell/extensions/extension.js';
import * as Main from 'resource:///org/gnome/shell/ui/main.js';
import * as PopupMenu from 'resource:///org/gnome/shell/ui/popupMenu.js';
import * as QuickSettings from 'resource:///org/gnome/shell/ui/quickSettings.js';

import {Health, State, makeClient} from './client.js';
import {makeIndicator} from './menu.js';

// Once in the life of the Shell: a class can be registered only once.
const Indicator = makeIndicator({
    Clutter, Gio, GObject, Pango, PopupMenu, QuickSettings, St, Health, State,
    Client: makeClient({Gio, GLib}),
    notify: (title, text) => Main.notify(title, text),
});

export default class XratExtension extends Extension {
    enable() {
        this._indicator = new Indicator(this.dir);
        Main.panel.statusArea.quickSettings.addExternalIndicator(this._indicator);
    }

    disable() {
        this._indicator?.destroy();
        this._indicator = null;
    }
}
