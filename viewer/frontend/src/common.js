// What the parts of a page share that are loaded one after the other. Each of them imports this: the bundler makes a file
// of what the same parts reach, so that all of it is one file, and one request. None of it does anything by being loaded, but for opening the stream that
// the page names.

import "./api.js";
import "./dom.js";
import "./entering.js";
import "./icons.js";
import "./session.js";
import "./viewer/connection.js";
import "./viewer/early.js";
import "./viewer/names.js";
