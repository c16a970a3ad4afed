// A real OpenID provider for the tests: npm's oidc-provider on loopback, with people, groups, and faults on demand.
//
// `node provider.js CONFIG.json`, with {port, client: {id, secret, redirect_uris, post_logout_redirect_uris}, accounts:
// {login: claims}, claims_in: "id_token" or "userinfo", key_file}. It prints `ready` when it listens. POST /control with {skew, rotate,
// publish}: make tokens with a clock that is wrong by `skew` seconds; sign with a new key; show that instead of the former.

import { AsyncLocalStorage } from "node:async_hooks";
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import Provider from "oidc-provider";
import MemoryAdapter from "oidc-provider/lib/adapters/memory_adapter.js";

const config = JSON.parse(readFileSync(process.argv[2], "utf8"));
const issuer = `http://127.0.0.1:${config.port}`;
// Its clock is wrong only while it makes tokens: browsers would drop cookies that seem to be over.
const trueNow = Date.now.bind(Date);
const wrongBy = new AsyncLocalStorage();
let skewSeconds = 0;
Date.now = () => trueNow() + (wrongBy.getStore() ?? 0) * 1000;

let keys = [firstKey()];
let provider = newProvider();
let published = provider;

const server = createServer((request, response) => {
  if (request.method === "POST" && request.url === "/control") control(request, response);
  else if (request.url === "/token") wrongBy.run(skewSeconds, () => provider.callback()(request, response));
  else if (request.url === "/jwks") published.callback()(request, response);
  else provider.callback()(request, response);
});
server.listen(config.port, "127.0.0.1", () => console.log("ready"));
process.on("SIGTERM", () => process.exit(0));

async function control(request, response) {
  let body = "";
  for await (const part of request) body += part;
  const wanted = JSON.parse(body);
  if ("skew" in wanted) skewSeconds = wanted.skew;
  if (wanted.rotate) {
    keys = [newKey()];
    provider = newProvider();
    if (wanted.publish) published = provider;
  }
  response.end("done");
}

/** The one that it had before it was stopped. */
function firstKey() {
  if (!existsSync(config.key_file)) writeFileSync(config.key_file, JSON.stringify(newKey()));
  return JSON.parse(readFileSync(config.key_file, "utf8"));
}

function newKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), alg: "RS256", use: "sig" };
}

function newProvider() {
  return new Provider(issuer, {
    // The one with a store that outlives a change of keys.
    adapter: (model) => new MemoryAdapter(model),
    clients: [
      {
        client_id: config.client.id,
        client_secret: config.client.secret,
        redirect_uris: config.client.redirect_uris,
        post_logout_redirect_uris: config.client.post_logout_redirect_uris,
      },
    ],
    jwks: { keys },
    cookies: { keys: ["tests"] },
    claims: { profile: ["name", "preferred_username", "groups", "department"], email: ["email", "email_verified"] },
    // False: the ID token has the claims too, as most providers do it.
    conformIdTokenClaims: config.claims_in === "userinfo",
    pkce: { required: () => true },
    // Codes outlive any wrong clock.
    ttl: { AccessToken: 14400, AuthorizationCode: 14400, Grant: 14400, IdToken: 3600, Interaction: 600, Session: 14400 },
    findAccount: (_ctx, login) => accountOf(login),
    loadExistingGrant: grantEverything,
    // Its stylesheet would come from a foreign host.
    renderError: (ctx, out) => {
      ctx.type = "text";
      ctx.body = `${out.error}: ${out.error_description ?? ""}`;
    },
  });
}

function accountOf(login) {
  const claims = config.accounts[login];
  if (!claims) return undefined;
  return { accountId: login, claims: () => ({ sub: login, ...claims }) };
}

/** Nobody is asked whether Deskfleet may know who he is. */
async function grantEverything(ctx) {
  const { client, session, provider: of } = ctx.oidc;
  const grant = new of.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope("openid profile email");
  await grant.save();
  return grant;
}
