// Shows the OpenAPI description with the bundled Swagger UI; what is tried out goes as the signed-in user.
document.addEventListener("DOMContentLoaded", () => {
  "use strict";
  const token = document.querySelector("meta[name=csrf-token]").content;
  window.SwaggerUIBundle({
    url: document.getElementById("swagger-ui").dataset.spec,
    dom_id: "#swagger-ui",
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    requestInterceptor: (request) => {
      if (!["GET", "HEAD"].includes(request.method || "GET")) request.headers["X-CSRFToken"] = token;
      return request;
    },
  });
});
