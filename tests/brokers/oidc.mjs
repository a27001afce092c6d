// An OpenID provider on 127.0.0.1: gives access tokens (JWT, RS256) to one client by its credentials, and publishes its keys.
//
//   node oidc.mjs PORT CLIENT SECRET SECONDS    SECONDS: how long a token is good for
import { Provider } from "oidc-provider";

const [port, client, secret, seconds] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: client, client_secret: secret, grant_types: ["client_credentials"], redirect_uris: [], response_types: [] }],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:kafka",
      getResourceServerInfo: () => ({ scope: "kafka", audience: "kafka", accessTokenFormat: "jwt", accessTokenTTL: Number(seconds) }),
    },
  },
  scopes: ["kafka"],
});
provider.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${issuer}`));
