// Imported first: on a page of another origin our element's name belongs to the frame around it, which has a shadow root.

import { names } from "../viewer/names.js";

names.viewer = "deskfleet-viewer";
