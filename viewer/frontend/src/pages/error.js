// Pages without a module of their own still carry the header with its sign-out button.

import "../header.js";
