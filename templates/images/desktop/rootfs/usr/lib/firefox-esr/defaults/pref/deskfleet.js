pref("general.config.filename", "deskfleet.cfg");
pref("general.config.obscure_value", 0);
